//! Tables for people: aligned columns under headings.

/// Rows under `headings`, each column as wide as its widest cell.
pub(super) fn render<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let heading = headings.get(column).map_or(0, |heading| heading.chars().count());
        cells.map(|cell| cell.chars().count()).chain([heading]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..N).map(width).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    let mut text = line(&headings.map(str::to_owned));
    rows.iter().for_each(|row| text.push_str(&line(row)));
    text
}

/// Labels and values, one a line.
pub(super) fn list(entries: &[(&str, String)]) -> String {
    let width = entries.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    entries.iter().map(|(label, value)| format!("{label:<width$}  {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["élodie".to_owned(), "1".to_owned()], ["b".to_owned(), String::new()]];
        let text = render(["NAME", "DEVICES"], &rows);
        assert_eq!(text, "NAME    DEVICES\nélodie  1\nb\n");
        assert_eq!(list(&[("a", "1".to_owned()), ("long", "2".to_owned())]), "a     1\nlong  2\n");
    }
}
