//! Navigation by instructions: where an agent stopped, how it went there, and what it knew.
//!
//! NE, SR, OSR and SPL as in R2R and VLN-CE (Anderson et al. 2018, arXiv 1711.07280 and 1807.06757; Krantz et al. 2020, arXiv 2004.02857), nDTW as in
//! Magalhaes et al. 2019 (arXiv 1907.05446, equations 4 and 5).

use crate::error::EvalError;

/// An agent that stops nearer to the goal than this has succeeded, in metres.
pub const SUCCESS: f64 = 3.0;

/// A path that was walked, in metres.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Walked {
    /// Where the agent has been: the start first, where it stopped last; at least one place.
    pub places: Vec<[f64; 2]>,
    /// From each of these places to the goal, along the shortest way.
    pub to_goal: Vec<f64>,
    /// The path that it was to walk, at least one place. nDTW depends on how many there are.
    pub reference: Vec<[f64; 2]>,
    /// From the start to the goal, along the shortest way.
    pub shortest: f64,
    /// Whether the agent stopped by itself; otherwise it ran out of steps, and has not succeeded.
    pub stopped: bool,
}

/// What is said of one path.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PathScores {
    /// Metres from where the agent stopped to the goal, along the shortest way (NE).
    pub error: f64,
    /// 1 if it stopped near the goal, or 0 (SR).
    pub success: f64,
    /// 1 if it came near the goal at all, or 0 (OSR).
    pub oracle_success: f64,
    /// Success times the share of the shortest way in the longer of it and what was walked (SPL).
    pub spl: f64,
    /// How well the path follows the reference, in (0, 1] (nDTW).
    pub ndtw: f64,
    /// Metres that were walked.
    pub length: f64,
}

/// The means over some paths.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct NavigationReport {
    /// Number of paths.
    pub paths: usize,
    /// The mean of each score.
    pub mean: PathScores,
}

fn apart(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

/// Judges paths.
///
/// # Errors
///
/// There is none, or one of them has no places, other distances than places, or a number that is none: it names the path.
pub fn navigation(paths: &[Walked]) -> Result<NavigationReport, EvalError> {
    if paths.is_empty() {
        return Err(EvalError::NoRows { what: "path" });
    }
    let mut mean = PathScores::default();
    for (row, path) in paths.iter().enumerate() {
        let own = path_scores(path).map_err(|reason| EvalError::Path { row, reason })?;
        let share = 1.0 / paths.len() as f64;
        mean.error += share * own.error;
        mean.success += share * own.success;
        mean.oracle_success += share * own.oracle_success;
        mean.spl += share * own.spl;
        mean.ndtw += share * own.ndtw;
        mean.length += share * own.length;
    }
    Ok(NavigationReport {
        paths: paths.len(),
        mean,
    })
}

/// Judges a path. One whose start is the goal needs no walking: if nothing was walked, its SPL is 1, or else 0.
///
/// # Errors
///
/// What is wrong with it.
pub fn path_scores(path: &Walked) -> Result<PathScores, &'static str> {
    let (Some(error), Some(_)) = (path.to_goal.last().copied(), path.reference.first()) else {
        return Err("has no place, or nothing to follow: at least one place is needed of each");
    };
    if path.to_goal.len() != path.places.len() {
        return Err("has another number of distances to the goal than of places");
    }
    let places = path.places.iter().chain(&path.reference).flatten();
    let metres = path.to_goal.iter().chain([&path.shortest]);
    if !places
        .chain(metres.clone())
        .all(|number| number.is_finite())
    {
        return Err("has a place or a distance that is no number");
    }
    if metres.into_iter().any(|metres| *metres < 0.0) {
        return Err("has a distance below 0");
    }
    let length: f64 = path
        .places
        .windows(2)
        .map(|pair| apart(pair[0], pair[1]))
        .sum();
    let nearest = path.to_goal.iter().copied().fold(f64::INFINITY, f64::min);
    let success = f64::from(u8::from(path.stopped && error < SUCCESS));
    let longer = length.max(path.shortest);
    let share = if longer > 0.0 {
        path.shortest / longer
    } else {
        1.0
    };
    let warped = warped(&path.places, &path.reference);
    Ok(PathScores {
        error,
        success,
        oracle_success: f64::from(u8::from(nearest < SUCCESS)),
        spl: success * share,
        ndtw: (-warped / (path.reference.len() as f64 * SUCCESS)).exp(),
        length,
    })
}

/// The cost of the best dynamic time warping between two paths.
fn warped(path: &[[f64; 2]], reference: &[[f64; 2]]) -> f64 {
    let mut row = vec![f64::INFINITY; reference.len() + 1];
    row[0] = 0.0;
    for place in path {
        let mut before = std::mem::replace(&mut row[0], f64::INFINITY);
        for (at, other) in reference.iter().enumerate() {
            let best = before.min(row[at]).min(row[at + 1]);
            before = std::mem::replace(&mut row[at + 1], best + apart(*place, *other));
        }
    }
    row.last().copied().unwrap_or_default()
}

/// How far a waypoint is from the right one, in cells, where 1 is `half` cells.
pub fn waypoint_error(found: [f32; 2], right: [f32; 2], half: f64) -> f64 {
    apart(found.map(f64::from), right.map(f64::from)) * half
}

/// The share of an attention's mass that lies on cells within `radius` of the path, given the distance of each cell. `None`: it has no mass, or is no
/// number.
///
/// # Panics
///
/// Panics if there are not as many distances as weights.
pub fn mass_near(attention: &[f32], distances: &[f32], radius: f32) -> Option<f64> {
    assert_eq!(attention.len(), distances.len(), "one distance per cell");
    let mass = |near: bool| -> f64 {
        let cells = attention.iter().zip(distances);
        let chosen = cells.filter(|(_, distance)| !near || **distance <= radius);
        chosen.map(|(weight, _)| f64::from(*weight)).sum()
    };
    let all = mass(false);
    (all.is_finite() && all > 0.0).then(|| mass(true) / all)
}

/// The mean of the distances between numbers and the right ones; `None` without any.
///
/// # Panics
///
/// Panics if there are not as many of one as of the other.
pub fn mean_absolute_error(found: &[f32], right: &[f32]) -> Option<f64> {
    assert_eq!(found.len(), right.len(), "one right number for each");
    let pairs = found.iter().zip(right);
    let sum: f64 = pairs
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs())
        .sum();
    (!found.is_empty()).then(|| sum / found.len() as f64)
}

/// How well classes of cells are found, over any number of cells.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassOverlap {
    /// For each class: cells that have it and were found to.
    both: Vec<u64>,
    /// For each class: cells that have it.
    right: Vec<u64>,
    /// For each class: cells that were found to have it.
    found: Vec<u64>,
}

impl ClassOverlap {
    /// Without cells yet.
    pub fn new(classes: usize) -> Self {
        Self {
            both: vec![0; classes],
            right: vec![0; classes],
            found: vec![0; classes],
        }
    }

    /// Adds cells. Those of a class beyond the last are left out.
    ///
    /// # Panics
    ///
    /// Panics if there are not as many of one as of the other.
    pub fn add(&mut self, found: &[u8], right: &[u8]) {
        assert_eq!(found.len(), right.len(), "one right class for each cell");
        for (found, right) in found.iter().zip(right) {
            let (found, right) = (usize::from(*found), usize::from(*right));
            if found >= self.right.len() || right >= self.right.len() {
                continue;
            }
            self.right[right] += 1;
            self.found[found] += 1;
            self.both[right] += u64::from(found == right);
        }
    }

    /// Number of cells.
    pub fn cells(&self) -> u64 {
        self.right.iter().sum()
    }

    /// The mean over the classes that some cell has of the cells that have and were found to have a class, in those that have it or were found to
    /// (mIoU). `None` without cells.
    pub fn mean_iou(&self) -> Option<f64> {
        self.mean(|class| {
            let union = self.right[class] + self.found[class] - self.both[class];
            self.both[class] as f64 / union as f64
        })
    }

    /// The same of an answer that is always the most frequent class.
    pub fn majority_iou(&self) -> Option<f64> {
        let most = self.right.iter().copied().max()?;
        let majority = self.right.iter().position(|count| *count == most)?;
        self.mean(|class| {
            let own = most as f64 / self.cells() as f64;
            if class == majority { own } else { 0.0 }
        })
    }

    fn mean(&self, of: impl Fn(usize) -> f64) -> Option<f64> {
        let there: Vec<usize> = (0..self.right.len())
            .filter(|class| self.right[*class] > 0)
            .collect();
        let sum: f64 = there.iter().map(|class| of(*class)).sum();
        (!there.is_empty()).then(|| sum / there.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} {b}");
    }

    /// 4 m ahead, then 3 m to the right, on a way of 5 m.
    fn bent() -> Walked {
        Walked {
            places: vec![[0.0, 0.0], [0.0, 4.0], [3.0, 4.0]],
            to_goal: vec![5.0, 3.0, 0.0],
            reference: vec![[0.0, 0.0], [3.0, 4.0]],
            shortest: 5.0,
            stopped: true,
        }
    }

    #[test]
    fn scores_by_hand() {
        let scores = path_scores(&bent()).unwrap();
        close(scores.error, 0.0);
        close(scores.success, 1.0);
        close(scores.length, 7.0);
        close(scores.spl, 5.0 / 7.0);
        // The place in the middle is 4 m from one and 3 m from the other point of the reference.
        close(scores.ndtw, (-3.0f64 / (2.0 * 3.0)).exp());
        let mut far = bent();
        far.to_goal = vec![5.0, 2.9, 3.0];
        let far = path_scores(&far).unwrap();
        assert_eq!((far.success, far.oracle_success, far.spl), (0.0, 1.0, 0.0));
        close(far.error, 3.0);
        let all = navigation(&[bent(), bent()]).unwrap();
        assert_eq!(all.paths, 2);
        close(all.mean.spl, 5.0 / 7.0);
    }

    #[test]
    fn who_runs_out_of_steps_at_the_goal_has_not_succeeded() {
        let path = Walked {
            stopped: false,
            ..bent()
        };
        let scores = path_scores(&path).unwrap();
        assert_eq!((scores.success, scores.oracle_success), (0.0, 1.0));
    }

    #[test]
    fn a_path_of_length_nought() {
        let still = Walked {
            places: vec![[1.0, 1.0]],
            to_goal: vec![0.0],
            reference: vec![[1.0, 1.0]],
            shortest: 0.0,
            stopped: true,
        };
        let scores = path_scores(&still).unwrap();
        assert_eq!((scores.spl, scores.ndtw, scores.length), (1.0, 1.0, 0.0));
        let there_and_back = Walked {
            places: vec![[1.0, 1.0], [2.0, 1.0], [1.0, 1.0]],
            to_goal: vec![0.0, 1.0, 0.0],
            ..still
        };
        assert_eq!(path_scores(&there_and_back).unwrap().spl, 0.0);
    }

    #[test]
    fn what_is_no_path_is_named() {
        let wrong = |change: fn(&mut Walked), words: &str| {
            let mut path = bent();
            change(&mut path);
            let error = navigation(&[bent(), path]).unwrap_err().to_string();
            assert!(error.contains("path 1") && error.contains(words), "{error}");
        };
        wrong(|path| path.places.clear(), "number of distances");
        wrong(|path| path.to_goal.clear(), "no place");
        wrong(|path| path.reference.clear(), "nothing to follow");
        wrong(|path| path.places[1][0] = f64::NAN, "no number");
        wrong(|path| path.to_goal[2] = f64::INFINITY, "no number");
        wrong(|path| path.reference[0][1] = f64::NAN, "no number");
        wrong(|path| path.shortest = -1.0, "below 0");
        assert!(navigation(&[]).is_err());
    }

    #[test]
    fn ndtw_takes_the_best_alignment() {
        let line = |points: &[f64]| -> Vec<[f64; 2]> { points.iter().map(|x| [*x, 0.0]).collect() };
        close(warped(&line(&[0.0, 1.0, 2.0]), &line(&[0.0, 2.0])), 1.0);
        close(
            warped(&line(&[0.0, 0.0, 0.0, 2.0]), &line(&[0.0, 2.0])),
            0.0,
        );
        close(warped(&line(&[2.0, 0.0]), &line(&[0.0, 2.0])), 4.0);
    }

    #[test]
    fn waypoints_mass_and_progress_by_hand() {
        close(
            waypoint_error([0.1, 0.2], [0.1, -0.2], 50.0),
            f64::from(0.4f32) * 50.0,
        );
        let near = mass_near(&[0.5, 0.25, 0.25], &[0.0, 1.0, 3.0], 1.0).unwrap();
        close(near, 0.75);
        assert_eq!(mass_near(&[0.0, 0.0], &[0.0, 1.0], 1.0), None);
        assert_eq!(mass_near(&[f32::NAN, 1.0], &[0.0, 1.0], 1.0), None);
        close(
            mean_absolute_error(&[0.5, 1.0], &[0.0, 0.75]).unwrap(),
            0.375,
        );
        assert_eq!(mean_absolute_error(&[], &[]), None);
    }

    #[test]
    fn overlap_by_hand() {
        let mut all = ClassOverlap::new(4);
        all.add(&[1, 1, 2, 2, 3], &[1, 1, 1, 2, 2]);
        // Class 1: 2 of 3. Class 2: 1 of 3. Class 3 is nowhere, and 9 is no class.
        all.add(&[9], &[1]);
        close(all.mean_iou().unwrap(), (2.0 / 3.0 + 1.0 / 3.0) / 2.0);
        // Always class 1: 3 of 5, and nothing of class 2.
        close(all.majority_iou().unwrap(), 0.3);
        assert_eq!(all.cells(), 5);
        assert_eq!(ClassOverlap::new(4).mean_iou(), None);
    }
}
