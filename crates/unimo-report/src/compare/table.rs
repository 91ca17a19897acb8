//! The comparison as text: for a terminal, and as Markdown for a document.

use super::Comparison;
use super::blocks::{Block, blocks, interval, signed, spread, value};
use crate::numbers::duration;

/// A longer value is cut in the middle of a terminal's table; the page has it whole.
const LONGEST: usize = 40;

/// Columns with texts at their left and numbers at their right edge.
#[derive(Default)]
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    fn write(&self, out: &mut String) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (at, cell) in row.iter().enumerate() {
                let room = " ".repeat(widths[at].saturating_sub(cell.chars().count()));
                if at == 0 {
                    line.push_str(&format!("  {cell}{room}"));
                } else {
                    line.push_str(&format!("  {room}{cell}"));
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }

    fn write_markdown(&self, out: &mut String) {
        for (number, row) in self.rows.iter().enumerate() {
            // A `|` would end a cell.
            let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            out.push_str(&format!("| {} |\n", cells.join(" | ")));
            if number == 0 {
                out.push_str(&format!(
                    "|---|{}\n",
                    "---:|".repeat(row.len().saturating_sub(1))
                ));
            }
        }
    }
}

pub(super) fn table(comparison: &Comparison) -> String {
    let mut out = String::new();
    for (title, table) in tables(comparison) {
        out.push_str(&title);
        out.push('\n');
        table.write(&mut out);
        out.push('\n');
    }
    for note in &comparison.notes {
        out.push_str(&format!("note: {note}\n"));
    }
    out
}

pub(super) fn markdown(comparison: &Comparison) -> String {
    let mut out = String::new();
    for (title, table) in tables(comparison) {
        out.push_str(&format!("{}:\n\n", title.trim()));
        table.write_markdown(&mut out);
        out.push('\n');
    }
    for note in &comparison.notes {
        out.push_str(&format!("- {note}\n"));
    }
    out
}

/// The tables with a row, each with its title.
fn tables(comparison: &Comparison) -> Vec<(String, Table)> {
    let mut all = vec![
        ("Runs".to_owned(), runs(comparison)),
        (
            "What differs between the set-ups".to_owned(),
            differences(comparison),
        ),
    ];
    for block in blocks(comparison) {
        all.push((block.title(), scores(comparison, &block)));
        let title = "  difference, seed by seed (± standard error)";
        all.push((title.to_owned(), pairs(&block)));
    }
    all.retain(|(_, table)| table.rows.len() > 1);
    all
}

fn runs(comparison: &Comparison) -> Table {
    let mut table = Table::default();
    let heads = [
        "run",
        "seed",
        "steps",
        "best step",
        "best score",
        "time",
        "parameters",
        "data",
    ];
    table.row(heads.map(str::to_owned).to_vec());
    for run in &comparison.runs {
        table.row(vec![
            run.name.clone(),
            run.seed.clone(),
            if run.finished {
                run.step.to_string()
            } else {
                format!("{} of {}", run.step, run.steps)
            },
            run.best_step
                .map_or("–".to_owned(), |step| step.to_string()),
            run.best_score
                .map_or("–".to_owned(), |score| format!("{score:.4}")),
            run.seconds.map_or("–".to_owned(), duration),
            run.parameters.map_or("–".to_owned(), |count| {
                crate::numbers::grouped(count as f64)
            }),
            run.held_out.clone(),
        ]);
    }
    table
}

fn differences(comparison: &Comparison) -> Table {
    let mut table = Table::default();
    let names = comparison.setups.iter().map(|setup| setup.name.clone());
    table.row(std::iter::once(String::new()).chain(names).collect());
    for (key, values) in &comparison.differences {
        let values = values.iter().map(|value| match value {
            Some(value) => short(value),
            None => "–".to_owned(),
        });
        table.row(std::iter::once(key.clone()).chain(values).collect());
    }
    table
}

fn short(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    let half = LONGEST / 2;
    let begin: String = text.chars().take(half).collect();
    let end: String = text.chars().skip(text.chars().count() - half).collect();
    format!("{begin}…{end}")
}

/// A row for each number. Columns: chance, then the runs with their intervals, or the set-ups where they have seeds.
fn scores(comparison: &Comparison, block: &Block<'_>) -> Table {
    let mut table = Table::default();
    let seeded = comparison.has_seeds();
    let names: Vec<String> = if seeded {
        comparison
            .setups
            .iter()
            .map(|setup| setup.name.clone())
            .collect()
    } else {
        comparison.runs.iter().map(|run| run.name.clone()).collect()
    };
    let heads = ["", "chance"].map(str::to_owned).into_iter();
    table.row(heads.chain(names).collect());
    for number in &block.numbers {
        let share = (0..comparison.runs.len())
            .find_map(|run| Some(block.score(run, number)?.share))
            .unwrap_or_default();
        let chance = block.chance(number);
        let mut row = vec![
            (*number).to_owned() + if share { " %" } else { "" },
            chance.map_or(String::new(), |chance| value(chance, share)),
        ];
        if seeded {
            row.extend(comparison.setups.iter().map(|setup| {
                block
                    .aggregate(&setup.name, number)
                    .map_or("–".to_owned(), |a| {
                        spread(value(a.mean, share), a.deviation, a.n, share)
                    })
            }));
        } else {
            row.extend((0..comparison.runs.len()).map(|run| {
                block.score(run, number).map_or("–".to_owned(), |score| {
                    format!("{} {}", value(score.value, share), interval(score))
                        .trim_end()
                        .to_owned()
                })
            }));
        }
        table.row(row);
    }
    if table.rows.iter().skip(1).all(|row| row[1].is_empty()) {
        for row in &mut table.rows {
            row.remove(1);
        }
    }
    table
}

fn pairs(block: &Block<'_>) -> Table {
    let mut table = Table::default();
    let pairs = block.pairs();
    let names = pairs
        .iter()
        .map(|(setup, minus)| format!("{setup} − {minus}"));
    table.row(std::iter::once(String::new()).chain(names).collect());
    for number in &block.numbers {
        let cells = pairs.iter().map(|pair| {
            block
                .paired(*pair, number)
                .map_or("–".to_owned(), |paired| {
                    let mean = signed(paired.mean, paired.share);
                    spread(mean, paired.error, paired.n, paired.share)
                })
        });
        table.row(std::iter::once((*number).to_owned()).chain(cells).collect());
    }
    if pairs.is_empty() {
        table.rows.clear();
    }
    table
}
