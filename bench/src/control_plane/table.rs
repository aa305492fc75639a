// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The figures, a column for each number of pods.

/// What was measured, in the order in which it was said first.
#[derive(Debug, Default)]
pub(crate) struct Table {
    columns: Vec<String>,
    sections: Vec<Section>,
    /// The one that figures belong to now.
    section: usize,
}

#[derive(Debug)]
struct Section {
    heading: String,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: &'static str,
    /// By column; the first columns may lack it.
    figures: Vec<Option<f64>>,
}

impl Table {
    /// What is said from now on belongs to this column.
    pub(crate) fn column(&mut self, name: String) {
        self.columns.push(name);
    }

    /// And to this section of it.
    pub(crate) fn section(&mut self, heading: impl Into<String>) {
        let heading = heading.into();
        let known = self
            .sections
            .iter()
            .position(|section| section.heading == heading);
        self.section = known.unwrap_or_else(|| {
            let rows = Vec::new();
            self.sections.push(Section { heading, rows });
            self.sections.len() - 1
        });
    }

    /// A figure.
    pub(crate) fn put(&mut self, name: &'static str, figure: f64) {
        let columns = self.columns.len();
        let Some(Section { rows, .. }) = self.sections.get_mut(self.section) else {
            return;
        };
        let place = rows.iter().position(|row| row.name == name);
        let place = place.unwrap_or_else(|| {
            let figures = Vec::new();
            rows.push(Row { name, figures });
            rows.len() - 1
        });
        let figures = &mut rows[place].figures;
        figures.resize(columns - 1, None);
        figures.push(Some(figure));
    }

    /// Prints it. The ratio is the last column's to the first one's.
    pub(crate) fn print(&self) {
        print!("\n{:<52}", "");
        for column in &self.columns {
            print!("{column:>14}");
        }
        println!("{:>9}", "ratio");
        for section in &self.sections {
            println!("{}", section.heading);
            for row in &section.rows {
                print!("  {:<50}", row.name);
                let figure = |column: usize| row.figures.get(column).copied().flatten();
                for column in 0..self.columns.len() {
                    print!("{:>14}", figure(column).map_or("-".into(), written));
                }
                match figure(0).zip(figure(self.columns.len() - 1)) {
                    Some((first, last)) if first > 0.0 => println!("{:>9.2}", last / first),
                    Some(_) | None => println!("{:>9}", "-"),
                }
            }
        }
    }
}

/// Three digits that count, and no fractions of what is large.
fn written(figure: f64) -> String {
    if figure >= 100.0 || figure.fract() == 0.0 {
        format!("{figure:.0}")
    } else if figure >= 10.0 {
        format!("{figure:.1}")
    } else if figure >= 0.1 {
        format!("{figure:.2}")
    } else {
        format!("{figure:.4}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_figures_keep_their_digits() {
        for (figure, text) in [
            (12345.6, "12346"),
            (3.0, "3"),
            (12.34, "12.3"),
            (1.234, "1.23"),
            (0.0123, "0.0123"),
        ] {
            assert_eq!(written(figure), text);
        }
    }
}
