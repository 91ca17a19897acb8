//! A table of samples that most formats fill: what their files say, without the image data.
//!
//! Texts lie one after another in one allocation; everything else refers to them by number. A format reads its files in any order.
//! The parts of each sample are brought together at the end.

mod columns;
mod samples;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use image::RgbImage;
use unimo_batch::{Entailment, TextRole};

use crate::error::{DataError, Place, ReadError, SampleError};
use crate::images::{self, Limits};
use crate::order::draws::{Stream, hash_path};
use crate::sources::given::Held;
use crate::sources::label::Label;
use crate::sources::left_out::{LeftOut, WITHOUT_TEXT};
use crate::sources::listed::columns::{Grouped, Texts};
use crate::sources::splits::{BySplit, Split};
use crate::store::{self, paths};
use crate::text::spaced;

/// Stands for "no text" and "no crop".
const NONE: u32 = u32::MAX;

/// A sample, without the items that belong to it.
#[derive(Debug, Clone, Copy)]
struct Row {
    line: u64,
    image: u32,
    second: u32,
    crop: u32,
    /// Width and height; zeros if the files do not say.
    size: [u32; 2],
    file: u16,
    folders: u16,
    split: Split,
    /// Whether it exists only for crops to refer to.
    helper: bool,
    /// Whether the file says which split it is of.
    named: bool,
}

#[derive(Debug, Clone, Copy)]
struct Object {
    name: u32,
    /// x1, y1, x2, y2 in pixels.
    bounds: [f32; 4],
}

/// A text about a sample's image.
#[derive(Debug, Clone, Copy)]
struct Said {
    text: u32,
    role: TextRole,
    /// Index of what is known of it, or [`NONE`].
    known: u32,
}

/// What is known of a text besides its role. Texts are numbers or [`NONE`].
#[derive(Debug, Clone, Copy)]
struct Known {
    /// 0 if it is not known.
    line: u64,
    id: u32,
    answer: u32,
    /// Index of the first answer, and number of answers.
    answers: (u32, u32),
    /// Index of the first pair of names of a kind, and number of pairs.
    kinds: (u32, u32),
    /// Index of the box, or [`NONE`].
    bounds: u32,
}

/// Where a sentence is defined.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Defined<'a> {
    /// Its id; empty if it has none.
    pub id: &'a str,
    /// Line, or number of the array's element.
    pub line: u64,
}

/// A new sample; see [`Listed::row`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct New<'a> {
    /// From [`Listed::file`].
    pub file: u16,
    /// Line, or number of the array's element.
    pub line: u64,
    /// From [`Listed::folders`].
    pub folders: u16,
    /// The image's path in one of the folders.
    pub image: &'a str,
    /// Path of the right image.
    pub second: Option<&'a str>,
    /// Width and height of the image in pixels, if known.
    pub size: Option<[u32; 2]>,
    /// Its split.
    pub split: Split,
}

/// A table of samples. See the [module](self).
#[derive(Debug)]
pub struct Listed {
    name: &'static str,
    limits: Limits,
    /// The lists that are read: file, and key if the file has several.
    files: Vec<(PathBuf, &'static str)>,
    folders: Vec<Vec<PathBuf>>,
    texts: Texts,
    rows: Vec<Row>,
    crops: Vec<[f32; 4]>,
    captions: Grouped<Said>,
    objects: Grouped<Object>,
    known: Vec<Known>,
    answers: Vec<u32>,
    kinds: Vec<[u32; 2]>,
    /// Boxes that texts refer to, as shares.
    referred: Vec<[f32; 4]>,
    splits: BySplit<Vec<u32>>,
    /// Share that is held out if the files do not say.
    pub(super) fraction: f64,
    /// Splits that have files of their own, so that rows of other files which name them are left out.
    pub(super) own_files: Vec<Split>,
    /// The share that a recipe gives beside held-out files, which changes nothing; 0 without such files.
    pub(super) unused: f64,
    rejected: Vec<SampleError>,
    left_out: LeftOut,
    clamped: u64,
}

impl Listed {
    /// An empty table for the format of this name.
    pub(crate) fn new(name: &'static str, limits: &Limits) -> Self {
        Self {
            name,
            limits: *limits,
            files: Vec::new(),
            folders: Vec::new(),
            texts: Texts::default(),
            rows: Vec::new(),
            crops: Vec::new(),
            captions: Grouped::default(),
            objects: Grouped::default(),
            known: Vec::new(),
            answers: Vec::new(),
            kinds: Vec::new(),
            referred: Vec::new(),
            splits: BySplit::default(),
            fraction: 0.0,
            own_files: Vec::new(),
            unused: 0.0,
            rejected: Vec::new(),
            left_out: LeftOut::new("items"),
            clamped: 0,
        }
    }

    /// Adds a file to read.
    pub(crate) fn file(&mut self, path: &Path) -> u16 {
        self.array(path, "")
    }

    /// Adds an array of a file to read, by its key.
    pub(crate) fn array(&mut self, path: &Path, key: &'static str) -> u16 {
        self.files.push((path.to_owned(), key));
        (self.files.len() - 1) as u16
    }

    fn place_of(&self, file: u16, line: u64) -> Place {
        let (path, key) = &self.files[usize::from(file)];
        let file = match *key {
            "" => path.display().to_string(),
            key => format!("{}#{key}", path.display()),
        };
        Place { file, line }
    }

    /// Adds folders in which images are looked for, in this order.
    pub(crate) fn folders(&mut self, folders: Vec<PathBuf>) -> u16 {
        self.folders.push(folders);
        (self.folders.len() - 1) as u16
    }

    /// Adds an item that cannot be used.
    pub(crate) fn reject(&mut self, file: u16, line: u64, reason: impl Into<String>) {
        self.rejected
            .push(SampleError::new(self.place_of(file, line), reason.into()));
    }

    /// Adds a sound item that is not a sample. The reason must read well after a number.
    pub(crate) fn leave_out(&mut self, reason: impl Into<String>) {
        self.left_out.add(reason);
    }

    /// Adds a sample.
    pub(crate) fn row(&mut self, new: New) -> u32 {
        let image = self.texts.push(new.image);
        let second = new.second.map_or(NONE, |path| self.texts.push(path));
        self.rows.push(Row {
            line: new.line,
            image,
            second,
            crop: NONE,
            size: new.size.unwrap_or_default(),
            file: new.file,
            folders: new.folders,
            split: new.split,
            helper: false,
            named: false,
        });
        (self.rows.len() - 1) as u32
    }

    /// Whether a file takes a row that names its split: files of held-out samples take their own, others those of splits without files.
    pub(crate) fn takes(&self, split: Split, held: Held) -> bool {
        match held {
            Held::All(own @ (Split::Val | Split::Test)) => split == own,
            Held::All(Split::Train) | Held::Share(_) => !self.own_files.contains(&split),
        }
    }

    /// Records that the file says which split a sample is of.
    pub(crate) fn names_split(&mut self, row: u32) {
        self.rows[row as usize].named = true;
    }

    /// Adds a sample that is a part of another sample's image. The other one need not have captions.
    pub(crate) fn crop(&mut self, of: u32, file: u16, line: u64, bounds: [f32; 4]) -> u32 {
        self.rows[of as usize].helper = true;
        let row = Row {
            file,
            line,
            helper: false,
            crop: self.crops.len() as u32,
            ..self.rows[of as usize]
        };
        self.crops.push(bounds);
        self.rows.push(row);
        (self.rows.len() - 1) as u32
    }

    /// The name of a sample's image, as given.
    pub(crate) fn image_of(&self, row: u32) -> &str {
        self.texts.get(self.rows[row as usize].image)
    }

    /// Adds a caption.
    pub(crate) fn caption(&mut self, row: u32, text: &str) -> Result<(), String> {
        let text = spaced(text).ok_or("empty text")?;
        self.say(row, &text, TextRole::Describes, None);
        Ok(())
    }

    /// Adds an expression that refers to a part of the image, with what is known of it.
    pub(crate) fn expression(&mut self, row: u32, text: &str, label: &Label) -> Result<(), String> {
        let text = spaced(text).ok_or("empty text")?;
        self.say(row, &text, TextRole::Describes, Some(label));
        Ok(())
    }

    /// Adds a text about a sample's image.
    fn say(&mut self, row: u32, text: &str, role: TextRole, label: Option<&Label>) {
        let text = self.texts.push(text);
        let known = label.filter(|label| **label != Label::default());
        let known = known.map_or(NONE, |label| self.know(label));
        self.captions.push(row, Said { text, role, known });
    }

    /// Stores what is known of a text.
    fn know(&mut self, label: &Label) -> u32 {
        let first = self.answers.len() as u32;
        for answer in &label.answers {
            let answer = self.texts.name(answer);
            self.answers.push(answer);
        }
        let kinds = self.kinds.len() as u32;
        for (name, value) in &label.kinds {
            let kind = [self.texts.name(name), self.texts.name(value)];
            self.kinds.push(kind);
        }
        let known = Known {
            line: label.line.unwrap_or_default(),
            id: match label.id.as_str() {
                "" => NONE,
                id => self.texts.push(id),
            },
            answer: match &label.answer {
                Some(answer) => self.texts.name(answer),
                None => NONE,
            },
            answers: (first, label.answers.len() as u32),
            kinds: (kinds, label.kinds.len() as u32),
            bounds: label.bounds.map_or(NONE, |bounds| {
                self.referred.push(bounds);
                (self.referred.len() - 1) as u32
            }),
        };
        self.known.push(known);
        (self.known.len() - 1) as u32
    }

    /// A box in a sample's image: x, y, width and height in pixels. It is clipped at the image's edges.
    ///
    /// # Errors
    ///
    /// Why it is not a box in this image.
    pub(crate) fn bounds(&mut self, row: u32, found: [f64; 4]) -> Result<[f32; 4], String> {
        self.bounds_in(self.rows[row as usize].size, found)
    }

    /// As [`bounds`](Self::bounds), in an image of this width and height; zeros if unknown.
    pub(crate) fn bounds_in(
        &mut self,
        size: [u32; 2],
        found: [f64; 4],
    ) -> Result<[f32; 4], String> {
        let (bounds, cut) = measured(size, found)?;
        self.clamped += u64::from(cut);
        Ok(bounds)
    }

    /// Adds an object with a box that [`bounds`](Self::bounds) gave.
    pub(crate) fn object(&mut self, row: u32, name: &str, bounds: [f32; 4]) {
        let name = self.texts.name(name);
        self.objects.push(row, Object { name, bounds });
    }

    /// Adds a question, with its answers.
    pub(crate) fn question(&mut self, row: u32, text: &str, label: &Label) -> Result<(), String> {
        let text = spaced(text).ok_or("empty question")?;
        self.say(row, &text, TextRole::Question, Some(label));
        Ok(())
    }

    /// Adds a statement of which nothing says whether it is true: that is asked.
    pub(crate) fn asked(&mut self, row: u32, text: &str, of: Defined<'_>) -> Result<(), String> {
        self.claim(row, text, TextRole::Question, of)
    }

    /// Adds a statement.
    pub(crate) fn statement(
        &mut self,
        row: u32,
        text: &str,
        holds: bool,
        of: Defined<'_>,
    ) -> Result<(), String> {
        self.claim(row, text, TextRole::Statement { holds }, of)
    }

    /// Adds a hypothesis.
    pub(crate) fn hypothesis(
        &mut self,
        row: u32,
        text: &str,
        label: Entailment,
        of: Defined<'_>,
    ) -> Result<(), String> {
        self.claim(row, text, TextRole::Hypothesis(label), of)
    }

    /// Adds a sentence whose role says what the answer is.
    fn claim(
        &mut self,
        row: u32,
        text: &str,
        role: TextRole,
        of: Defined<'_>,
    ) -> Result<(), String> {
        let text = spaced(text).ok_or("empty sentence")?;
        let label = Label {
            id: of.id.to_owned(),
            line: Some(of.line),
            ..Label::of_role(role)
        };
        self.say(row, &text, role, Some(&label));
        Ok(())
    }

    /// What is known of a text.
    fn label(&self, said: &Said) -> Label {
        if said.known == NONE {
            return Label::of_role(said.role);
        }
        let known = self.known[said.known as usize];
        let text = |number: u32| (number != NONE).then(|| self.texts.get(number).to_owned());
        let range = |(first, count): (u32, u32)| first as usize..(first + count) as usize;
        let answers = self.answers[range(known.answers)].iter();
        let kinds = self.kinds[range(known.kinds)].iter();
        let name = |number: u32| self.texts.get(number).to_owned();
        Label {
            id: text(known.id).unwrap_or_default(),
            answer: text(known.answer),
            answers: answers.map(|answer| name(*answer)).collect(),
            line: Some(known.line).filter(|line| *line > 0),
            kinds: kinds.map(|[a, b]| (name(*a), name(*b))).collect(),
            bounds: (known.bounds != NONE).then(|| self.referred[known.bounds as usize]),
        }
    }

    /// Brings the items of each sample together. A sample without captions is set aside.
    ///
    /// # Errors
    ///
    /// Nothing can be used, or there are more items than the table can number.
    pub(crate) fn finish(mut self) -> Result<Self, DataError> {
        let rows = self.rows.len();
        let counted = rows < NONE as usize
            && self.crops.len() < NONE as usize
            && self.answers.len() < NONE as usize
            && self.kinds.len() < NONE as usize
            && self.referred.len() < NONE as usize
            && !self.texts.full
            && self.captions.finish(rows)
            && self.objects.finish(rows);
        if !counted {
            return Err(self.nothing("more than 4294967295 samples, texts or boxes"));
        }
        // An item is listed once, for its first fault.
        let known: HashSet<Place> = self
            .rejected
            .iter()
            .map(|item| item.place.clone())
            .collect();
        for index in 0..rows as u32 {
            let row = self.rows[index as usize];
            if self.captions.of(index).is_empty() {
                if !row.helper && !known.contains(&self.place_of(row.file, row.line)) {
                    self.leave_out(WITHOUT_TEXT);
                }
            } else {
                self.splits[row.split].push(index);
            }
        }
        self.texts.known = HashMap::new();
        if self.splits.iter().all(|(_, rows)| rows.is_empty()) {
            return Err(self.nothing("nothing in it can be used"));
        }
        Ok(self)
    }

    fn nothing(&self, what: &str) -> DataError {
        const SHOWN: usize = 3;
        let mut reason = what.to_owned();
        if self.left_out.total() > 0 {
            reason += &format!("; {}", self.left_out);
        }
        if !self.rejected.is_empty() {
            reason += &format!("; {} are unusable:", self.rejected.len());
            for rejected in self.rejected.iter().take(SHOWN) {
                reason += &format!(" {rejected}.");
            }
        }
        DataError::Manifest {
            path: self
                .files
                .first()
                .map(|(path, _)| path.clone())
                .unwrap_or_default(),
            reason,
        }
    }

    fn index(&self, split: Split, index: usize) -> u32 {
        self.splits[split][index]
    }

    /// Path of an image in the first folder that has it, or in the first folder if none has.
    fn path(&self, row: &Row, image: u32) -> Result<PathBuf, String> {
        let image = self.texts.get(image);
        let folders = &self.folders[usize::from(row.folders)];
        if folders.len() > 1 {
            for folder in folders {
                let path = paths::resolve(folder, image)?;
                if store::may_be_file(&path) {
                    return Ok(path);
                }
            }
        }
        let first = folders.first().map_or(Path::new(""), |folder| folder);
        paths::resolve(first, image)
    }

    fn picture(&self, row: &Row, image: u32, limits: Limits) -> Result<RgbImage, SampleError> {
        self.path(row, image)
            .map_err(ReadError::from)
            .and_then(|path| images::read(&path, limits))
            .map_err(|reason| self.bad(row, reason))
    }

    /// The bytes of an image's file, and the extension of its format.
    fn stored(
        &self,
        row: &Row,
        image: u32,
    ) -> Result<Option<(Vec<u8>, &'static str)>, SampleError> {
        self.path(row, image)
            .map_err(ReadError::from)
            .and_then(|path| images::read_file(&path, self.limits.max_pixels))
            .map(Some)
            .map_err(|reason| self.bad(row, reason))
    }

    /// Identifies an image's file without reading the disk.
    fn identity(&self, row: &Row, image: u32) -> u64 {
        let folders = &self.folders[usize::from(row.folders)];
        let folder = folders.first().map_or(Path::new(""), PathBuf::as_path);
        // Windows separators count as separators on every system.
        let image = self.texts.get(image).replace('\\', "/");
        hash_path(Stream::Picture, &folder.join(image))
    }

    /// How many images are in more than one split.
    fn in_several_splits(&self) -> usize {
        let mut seen: HashMap<u64, Split> = HashMap::new();
        let mut shared = HashSet::new();
        for split in Split::ALL {
            for number in &self.splits[split] {
                let row = &self.rows[*number as usize];
                let image = self.identity(row, row.image);
                if *seen.entry(image).or_insert(split) != split {
                    shared.insert(image);
                }
            }
        }
        shared.len()
    }

    /// The name in descriptions.
    fn title(&self) -> String {
        let mut files: Vec<String> = Vec::new();
        for (path, _) in &self.files {
            let path = path.display().to_string();
            if !files.contains(&path) {
                files.push(path);
            }
        }
        format!("{} ({})", self.name, files.join(", "))
    }

    fn bad(&self, row: &Row, reason: impl Into<ReadError>) -> SampleError {
        SampleError::new(self.place_of(row.file, row.line), reason)
    }

    /// A box relative to the image's sides.
    fn shares(
        &self,
        row: &Row,
        bounds: [f32; 4],
        picture: &RgbImage,
    ) -> Result<[f32; 4], SampleError> {
        let [width, height] = match row.size {
            [0, _] | [_, 0] => [picture.width(), picture.height()],
            size => size,
        };
        let (bounds, _) = clamp(bounds.map(f64::from), [width, height])
            .map_err(|reason| self.bad(row, format!("the box {bounds:?} {reason}")))?;
        let sides = [width, height, width, height].map(|side| side as f32);
        Ok(std::array::from_fn(|at| {
            (bounds[at] / sides[at]).clamp(0.0, 1.0)
        }))
    }

    fn shown(&self, number: u32) -> Result<RgbImage, SampleError> {
        let row = &self.rows[number as usize];
        // A crop needs the full size, and boxes in pixels are measured against the image if the list has no size.
        let measures = row.size.contains(&0) && !self.objects.of(number).is_empty();
        let limits = if row.crop != NONE || measures {
            Limits::full_size(self.limits.max_pixels)
        } else {
            self.limits
        };
        let picture = self.picture(row, row.image, limits)?;
        if row.crop == NONE {
            return Ok(picture);
        }
        let bounds = self.shares(row, self.crops[row.crop as usize], &picture)?;
        let part = images::Part::of_box(&picture, bounds);
        let cut = image::imageops::crop_imm(&picture, part.left, part.top, part.width, part.height);
        Ok(cut.to_image())
    }
}

/// A box, x, y, width and height in pixels, as corners in an image of this size; zeros if unknown. Also whether it was clipped.
///
/// # Errors
///
/// Why it is not a box in this image, and what one has to be.
pub(crate) fn measured(
    size: [u32; 2],
    [x, y, width, height]: [f64; 4],
) -> Result<([f32; 4], bool), String> {
    clamp([x, y, x + width, y + height], size)
        .map_err(|reason| format!("the box [{x}, {y}, {width}, {height}] {reason}"))
}

/// Corners clipped at the edges of an image if its size is known, and whether clipping changed them.
fn clamp(corners: [f64; 4], size: [u32; 2]) -> Result<([f32; 4], bool), String> {
    // Rounding moves an edge by at most half a pixel.
    const ROUNDING: f64 = 0.5;
    if corners.iter().any(|edge| !edge.is_finite()) {
        return Err(
            "holds what is no finite number: it must be x, y, width and height in pixels"
                .to_owned(),
        );
    }
    let [x1, y1, x2, y2] = corners;
    if x2 <= x1 || y2 <= y1 {
        return Err("has no area: its width and height must be above 0".to_owned());
    }
    let [width, height] = size.map(f64::from);
    if width == 0.0 || height == 0.0 {
        return Ok((corners.map(|edge| edge as f32), false));
    }
    if x1 >= width || y1 >= height || x2 <= 0.0 || y2 <= 0.0 {
        return Err(format!(
            "lies outside of the image of {width} x {height}, and must lie in it at least in part"
        ));
    }
    let cut = [x1.max(0.0), y1.max(0.0), x2.min(width), y2.min(height)];
    let moved = cut
        .iter()
        .zip(&corners)
        .any(|(a, b)| (a - b).abs() > ROUNDING);
    Ok((cut.map(|edge| edge as f32), moved))
}
