//! Weakly supervised phrase grounding by the pointing game (Zhang et al. 2016): does a phrase point into one of its boxes?
//!
//! A model that saw no boxes scores some points of an image for a phrase, such as the middles of its patches or of a detector's
//! regions. It points at the highest score.

/// Results over some phrases.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pointing {
    /// Phrases that were evaluated.
    pub phrases: usize,
    /// Phrases that pointed into one of their boxes.
    pub hits: usize,
    /// Phrases that the image's centre, as a fixed answer, would have got right.
    pub centre_hits: usize,
    /// Sum over phrases of the share of points that lie in a box: the hits that chance would reach.
    pub chance: f64,
}

impl Pointing {
    /// Adds a phrase: the scores of an image's points, their positions, and the phrase's boxes as x1, y1, x2, y2, all in shares of
    /// width and height. A phrase without boxes or points is left out. Scores that are the same everywhere point nowhere, which is a miss.
    ///
    /// # Panics
    ///
    /// Panics if there are not as many scores as points.
    pub fn add(&mut self, scores: &[f32], points: &[[f32; 2]], boxes: &[[f32; 4]]) {
        assert_eq!(scores.len(), points.len(), "one score per point");
        let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        let (Some(best), false) = (best, boxes.is_empty()) else {
            return;
        };
        let inside = |[x, y]: &[f32; 2]| {
            let holds = |[x1, y1, x2, y2]: &[f32; 4]| x >= x1 && x <= x2 && y >= y1 && y <= y2;
            boxes.iter().any(holds)
        };
        let within = points.iter().filter(|point| inside(point));
        let points_somewhere = scores.len() == 1 || scores.iter().any(|s| *s != scores[best]);
        self.phrases += 1;
        self.hits += usize::from(points_somewhere && inside(&points[best]));
        self.centre_hits += usize::from(inside(&[0.5, 0.5]));
        self.chance += within.count() as f64 / scores.len() as f64;
    }

    /// Share of phrases that pointed right; `None` without phrases.
    pub fn accuracy(&self) -> Option<f64> {
        self.share(self.hits as f64)
    }

    /// The share that the centre would have got right; `None` without phrases.
    pub fn centre(&self) -> Option<f64> {
        self.share(self.centre_hits as f64)
    }

    /// The share that chance would have got right; `None` without phrases.
    pub fn chance(&self) -> Option<f64> {
        self.share(self.chance)
    }

    fn share(&self, sum: f64) -> Option<f64> {
        (self.phrases > 0).then(|| sum / self.phrases as f64)
    }
}

/// The middles of the cells of a `grid x grid` image, row by row.
pub fn middles(grid: usize) -> Vec<[f32; 2]> {
    let of = |at: usize| (at as f32 + 0.5) / grid as f32;
    (0..grid * grid)
        .map(|cell| [of(cell % grid), of(cell / grid)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phrase_points_at_its_highest_cell() {
        let left_top = [[0.0, 0.0, 0.5, 0.5]];
        let mut all = Pointing::default();
        let mut scores = vec![0.0; 16];
        scores[5] = 1.0;
        all.add(&scores, &middles(4), &left_top);
        scores[6] = 2.0;
        all.add(&scores, &middles(4), &left_top);
        all.add(&scores, &middles(4), &[]);
        assert_eq!((all.phrases, all.hits, all.centre_hits), (2, 1, 2));
        assert_eq!(all.accuracy(), Some(0.5));
        assert_eq!(all.chance(), Some(0.25));
        assert_eq!(Pointing::default().accuracy(), None);
    }

    #[test]
    fn scores_that_are_all_the_same_point_nowhere() {
        let mut all = Pointing::default();
        all.add(&[0.0; 4], &middles(2), &[[0.0, 0.0, 1.0, 1.0]]);
        assert_eq!((all.phrases, all.hits), (1, 0));
    }

    #[test]
    fn any_box_counts_and_cells_count_once() {
        let mut all = Pointing::default();
        let boxes = [[0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 0.49, 0.49]];
        all.add(&[0.0, 0.0, 0.0, 1.0], &middles(2), &boxes);
        assert_eq!((all.hits, all.chance()), (0, Some(0.25)));
        all.add(
            &[0.0, 0.0, 0.0, 1.0],
            &middles(2),
            &[boxes[0], [0.6, 0.6, 1.0, 1.0]],
        );
        assert_eq!(all.hits, 1);
    }
}
