//! Measures Corelane beside what there is without it and what there could be at best.

fn main() {}
