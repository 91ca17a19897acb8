//! Codes that were made elsewhere: a `.npy` table with a row for each image, and the images' names beside it.
//!
//! Shape legend: `N` images, `G` patches of an image.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{DataError, ReadError};
use crate::formats::rows::{each_line, record};
use crate::store::paths;

/// Codes of images by their names.
#[derive(Debug, Clone)]
pub struct CodeTable {
    path: PathBuf,
    /// `G`.
    grid: usize,
    /// Number of codes that a model knows.
    count: usize,
    /// `[N, G]`, row-major; 0 for a hole.
    codes: Vec<u16>,
    /// The first hole of each row that has one.
    holes: HashMap<usize, usize>,
    /// The row of each image.
    rows: HashMap<String, usize>,
}

/// A line of the index.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    image: String,
}

impl CodeTable {
    /// Reads a table and its index. `count` is the number of codes that a model knows.
    ///
    /// # Errors
    ///
    /// A file cannot be read, both have different lengths, an image has two rows, or a code is not below `count`.
    pub fn load(path: &Path, count: usize) -> Result<Self, DataError> {
        let bad = |path: &Path, reason: String| DataError::Manifest {
            path: path.to_owned(),
            reason,
        };
        let bytes = std::fs::read(path).map_err(|error| DataError::file("read", path, error))?;
        let (rows, grid, values) = numbers(&bytes).map_err(|reason| bad(path, reason))?;
        let index = path.with_extension("jsonl");
        let names = names(&index)?;
        if names.len() != rows {
            let reason = format!(
                "{} images for the {rows} rows of {}: there must be a line for each",
                names.len(),
                path.display()
            );
            return Err(bad(&index, reason));
        }
        let mut codes = Vec::with_capacity(values.len());
        let mut holes = HashMap::new();
        for (at, value) in values.into_iter().enumerate() {
            let (row, patch) = (at / grid, at % grid);
            if value < 0 {
                holes.entry(row).or_insert(patch);
            }
            match u16::try_from(value.max(0)) {
                Ok(code) if usize::from(code) < count => codes.push(code),
                _ => {
                    let reason = format!(
                        "row {row} ({}) has code {value} at patch {patch}; data.codes.codes = {count} allows 0 to {}",
                        names[row],
                        count - 1
                    );
                    return Err(bad(path, reason));
                }
            }
        }
        let mut of_names = HashMap::with_capacity(rows);
        for (row, name) in names.into_iter().enumerate() {
            if let Some(before) = of_names.insert(name.clone(), row) {
                let reason = format!("{name:?} stands on lines {} and {}", before + 1, row + 1);
                return Err(bad(&index, reason));
            }
        }
        Ok(Self {
            path: path.to_owned(),
            grid,
            count,
            codes,
            holes,
            rows: of_names,
        })
    }

    /// `G`.
    pub fn grid(&self) -> usize {
        self.grid
    }

    /// Number of codes that a model knows.
    pub fn count(&self) -> usize {
        self.count
    }

    /// One sentence: what there is, and what is missing in it.
    pub fn describe(&self) -> String {
        let holes = match self.holes.len() {
            0 => String::new(),
            rows => format!("; {rows} of them have holes, and their images are left out"),
        };
        format!(
            "{} codes of {} patches each for {} images in {}{holes}",
            self.count,
            self.grid,
            self.rows.len(),
            self.path.display()
        )
    }

    /// The codes of an image.
    ///
    /// # Errors
    ///
    /// It has no row, or its row has a hole.
    pub fn row(&self, name: &str) -> Result<Vec<u32>, ReadError> {
        let file = self.path.display();
        let row = self.rows.get(name);
        // Names in a list and in the index may be spelled in different ways.
        let row = row.or_else(|| {
            let folder = self.path.parent().unwrap_or(Path::new(""));
            self.rows.get(&*paths::spelled(folder, name))
        });
        let row = *row.ok_or_else(|| format!("{file} has no row for {name:?}"))?;
        if let Some(patch) = self.holes.get(&row) {
            return Err(format!("row {row} of {file} has a hole at patch {patch}").into());
        }
        let codes = &self.codes[row * self.grid..][..self.grid];
        Ok(codes.iter().map(|code| u32::from(*code)).collect())
    }
}

fn names(index: &Path) -> Result<Vec<String>, DataError> {
    let mut names = Vec::new();
    let mut wrong = None;
    each_line(
        index,
        &mut |span, line| match line.and_then(|line| record::<Line>(&line)) {
            Ok(Some(line)) => names.push(line.image),
            Ok(None) => {}
            Err(reason) => {
                let reason = format!(
                    "line {}: {reason}; a line is {{\"image\": \"NAME\"}}",
                    span.line
                );
                wrong = wrong.take().or(Some(reason));
            }
        },
    )?;
    match wrong {
        Some(reason) => Err(DataError::Manifest {
            path: index.to_owned(),
            reason,
        }),
        None => Ok(names),
    }
}

/// `[N, G]` of whole numbers.
fn numbers(bytes: &[u8]) -> Result<(usize, usize, Vec<i64>), String> {
    let open = || npyz::NpyFile::new(bytes).map_err(|error| error.to_string());
    let file = open()?;
    let &[rows, grid] = file.shape() else {
        return Err(format!(
            "of shape {:?}, not [images, patches]",
            file.shape()
        ));
    };
    if file.order() != npyz::Order::C {
        return Err("in Fortran's order; numpy.ascontiguousarray gives the other".to_owned());
    }
    if grid == 0 {
        return Err("without patches".to_owned());
    }
    // Checks that the file holds what its header declares before memory is allocated.
    let promised = rows.checked_mul(grid).ok_or("too many numbers")?;
    if promised > bytes.len() as u64 {
        return Err(format!("cut short: its header promises {rows} x {grid}"));
    }
    macro_rules! whole {
        ($($kind:ty),+) => {
            $(if let Ok(data) = open()?.data::<$kind>() {
                let values = data.map(|value| value.map(i64::from));
                let values = values.collect::<Result<Vec<i64>, _>>();
                let values = values.map_err(|error| error.to_string())?;
                return Ok((rows as usize, grid as usize, values));
            })+
        };
    }
    whole!(u16, u8, u32, i32, i64);
    let kind = file.dtype().descr();
    Err(format!("of {kind}, not of u8, u16, u32, i32 or i64"))
}
