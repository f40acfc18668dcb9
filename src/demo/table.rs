//! A table for people: a column of names, then columns of figures that line up.

/// Rows under optional titles. Cells may be left out at the end of a row.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
enum Row {
    Cells(Vec<String>),
    Note(String, String),
    Blank,
}

/// Spaces between two columns.
const GAP: &str = "  ";

impl Table {
    /// Adds a row: a name, then its figures.
    pub(super) fn row<const N: usize>(&mut self, name: &str, figures: [String; N]) {
        let mut cells = vec![name.to_owned()];
        cells.extend(figures);
        self.rows.push(Row::Cells(cells));
    }

    /// Adds a name and a text, which stands left-aligned and takes part in no column.
    pub(super) fn note(&mut self, name: &str, text: impl Into<String>) {
        self.rows.push(Row::Note(name.to_owned(), text.into()));
    }

    /// Adds an empty line.
    pub(super) fn blank(&mut self) {
        self.rows.push(Row::Blank);
    }

    /// Every row on a line: names to the left, figures to the right of their columns.
    pub(super) fn render(&self) -> String {
        let widths = self.widths();
        let name_width = widths.first().copied().unwrap_or(0);
        let mut text = String::new();
        for row in &self.rows {
            let line = match row {
                Row::Blank => String::new(),
                Row::Note(name, note) => format!("{name:<name_width$}{GAP}{note}"),
                Row::Cells(cells) => cells
                    .iter()
                    .zip(&widths)
                    .enumerate()
                    .map(|(column, (cell, &width))| match column {
                        0 => format!("{cell:<width$}"),
                        _ => format!("{GAP}{cell:>width$}"),
                    })
                    .collect(),
            };
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// The width of every column, in characters.
    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = Vec::new();
        let mut widen = |column: usize, cell: &str| {
            if widths.len() <= column {
                widths.resize(column + 1, 0);
            }
            if let Some(width) = widths.get_mut(column) {
                *width = (*width).max(cell.chars().count());
            }
        };
        for row in &self.rows {
            match row {
                Row::Cells(cells) => {
                    cells.iter().enumerate().for_each(|(column, cell)| widen(column, cell));
                }
                Row::Note(name, _) => widen(0, name),
                Row::Blank => {}
            }
        }
        widths
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_line_up_whatever_their_cells() {
        let mut table = Table::default();
        table.row("", ["tunnel".to_owned(), "direct".to_owned()]);
        table.row("TCP", ["9.41 Gbit/s".to_owned(), "30.2 Gbit/s".to_owned()]);
        table.row("ping, médian", ["1 ms".to_owned()]);
        table.blank();
        table.note("workers", "2 on the server, a long text that widens nothing");
        let expected = "\
                 \u{20}                  tunnel       direct\n\
                 TCP           9.41 Gbit/s  30.2 Gbit/s\n\
                 ping, médian         1 ms\n\
                 \n\
                 workers       2 on the server, a long text that widens nothing\n";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn an_empty_table_is_nothing() {
        assert_eq!(Table::default().render(), "");
    }
}
