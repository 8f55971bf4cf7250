//! Columns of text, aligned.

/// A table; the last column is never padded.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With a heading.
    pub(crate) fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// One line per row, columns two spaces apart, each line behind `indent`.
    pub(crate) fn render(&self, indent: &str) -> String {
        let widths: Vec<usize> = self.columns(widest_line);
        let mut text = String::new();
        for row in &self.rows {
            push_line(&mut text, indent, row.iter().map(String::as_str), &widths);
        }
        text
    }

    /// As [`Self::render`] without indent, in as few columns as `width` if that can be had by breaking
    /// cells between words. No word is ever broken: a name must stay one that can be copied.
    pub(crate) fn render_within(&self, width: Option<usize>) -> String {
        let mut widths: Vec<usize> = self.columns(widest_line);
        let least: Vec<usize> = self.columns(widest_word);
        let between = 2 * widths.len().saturating_sub(1);
        let limit = width.unwrap_or(usize::MAX);
        while widths.iter().sum::<usize>() + between > limit {
            let narrowable = (0..widths.len()).filter(|&column| widths[column] > least[column]);
            let Some(widest) = narrowable.max_by_key(|&column| widths[column]) else { break };
            widths[widest] -= 1;
        }
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<Vec<String>> =
                row.iter().zip(&widths).map(|(cell, &width)| wrapped(cell, width)).collect();
            let lines = cells.iter().map(Vec::len).max().unwrap_or(0);
            for line in 0..lines {
                let part = |cell: &'_ Vec<String>| cell.get(line).cloned().unwrap_or_default();
                let parts: Vec<String> = cells.iter().map(part).collect();
                push_line(&mut text, "", parts.iter().map(String::as_str), &widths);
            }
        }
        text
    }

    /// The most that `measure` finds in each column.
    fn columns(&self, measure: fn(&str) -> usize) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let most = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| measure(cell)).max()
        };
        (0..columns).map(|column| most(column).unwrap_or(0)).collect()
    }
}

fn push_line<'a>(
    text: &mut String,
    indent: &str,
    cells: impl Iterator<Item = &'a str>,
    widths: &[usize],
) {
    let mut line = String::new();
    for (cell, &width) in cells.zip(widths) {
        // Not by a width in a format string: those end at 65535.
        let padding = width.saturating_sub(widest_line(cell)) + 2;
        line.push_str(cell);
        line.extend(std::iter::repeat_n(' ', padding));
    }
    text.push_str(&format!("{indent}{}\n", line.trim_end()));
}

fn widest_line(cell: &str) -> usize {
    cell.chars().count()
}

fn widest_word(cell: &str) -> usize {
    cell.split(' ').map(|word| word.chars().count()).max().unwrap_or(0)
}

/// Broken between words; a word that is longer than `width` stands in a line of its own.
fn wrapped(cell: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in cell.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_by_characters_not_bytes() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(["prod-db ✓".to_owned(), "on".to_owned()]);
        table.row(["x".to_owned(), String::new()]);
        assert_eq!(table.render(" "), " NAME       STATE\n prod-db ✓  on\n x\n");
        assert_eq!(table.render_within(None), "NAME       STATE\nprod-db ✓  on\nx\n");
    }

    #[test]
    fn a_cell_may_be_as_long_as_it_is() {
        let mut table = Table::default();
        let long = "x".repeat(70_000);
        table.row([long.clone(), "y".to_owned()]);
        assert_eq!(table.render(""), format!("{long}  y\n"));
    }

    #[test]
    fn a_narrow_window_breaks_cells_between_words_and_never_a_name() {
        let mut table = Table::new(&["NAME", "NOTE", "SIZE"]);
        let name = "prod-db-vm-backup-daily-20251201-0800";
        table.row([
            name.to_owned(),
            "the agent is not connected now".to_owned(),
            "1 GB".to_owned(),
        ]);
        assert_eq!(
            table.render_within(Some(61)),
            "NAME                                   NOTE              SIZE\n\
             prod-db-vm-backup-daily-20251201-0800  the agent is not  1 GB\n\
             \x20                                      connected now\n"
        );
        let narrow = table.render_within(Some(10));
        assert!(narrow.contains(name) && narrow.contains("connected"), "{narrow}");
    }
}
