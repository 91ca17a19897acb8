//! Weakly supervised phrase grounding by the pointing game (Zhang et al. 2016): does a phrase point into one of its boxes?
//!
//! A model that saw no boxes gives each cell of a picture's grid a score for a phrase; it points at the middle of the highest.

/// Answers over some phrases.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pointing {
    /// Phrases that were asked for.
    pub phrases: usize,
    /// Those that pointed into one of their boxes.
    pub hits: usize,
    /// Those that the picture's centre, as a fixed answer, would have got right.
    pub centre_hits: usize,
    /// Sum over phrases of the share of cells whose middle lies in a box: what chance would have got right.
    pub chance: f64,
}

impl Pointing {
    /// Adds a phrase, given the scores of a `grid x grid` picture's cells, row by row, and its boxes as x1, y1, x2, y2 in shares of
    /// width and height. What has no box or no cell is left out.
    ///
    /// # Panics
    ///
    /// Panics if there are not `grid * grid` scores.
    pub fn add(&mut self, scores: &[f32], grid: usize, boxes: &[[f32; 4]]) {
        assert_eq!(scores.len(), grid * grid, "one score per cell");
        let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        let (Some(best), false) = (best, boxes.is_empty()) else {
            return;
        };
        let middle = |cell: usize| {
            let of = |at: usize| (at as f32 + 0.5) / grid as f32;
            (of(cell % grid), of(cell / grid))
        };
        let inside = |(x, y): (f32, f32)| {
            let holds = |[x1, y1, x2, y2]: &[f32; 4]| x >= *x1 && x <= *x2 && y >= *y1 && y <= *y2;
            boxes.iter().any(holds)
        };
        let cells = (0..scores.len()).filter(|cell| inside(middle(*cell)));
        self.phrases += 1;
        self.hits += usize::from(inside(middle(best)));
        self.centre_hits += usize::from(inside((0.5, 0.5)));
        self.chance += cells.count() as f64 / scores.len() as f64;
    }

    /// Share of phrases that pointed right; none without phrases.
    pub fn accuracy(&self) -> Option<f64> {
        self.share(self.hits as f64)
    }

    /// The same of the centre.
    pub fn centre(&self) -> Option<f64> {
        self.share(self.centre_hits as f64)
    }

    /// The same of chance.
    pub fn chance(&self) -> Option<f64> {
        self.share(self.chance)
    }

    fn share(&self, sum: f64) -> Option<f64> {
        (self.phrases > 0).then(|| sum / self.phrases as f64)
    }
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
        all.add(&scores, 4, &left_top);
        scores[6] = 2.0;
        all.add(&scores, 4, &left_top);
        all.add(&scores, 4, &[]);
        assert_eq!((all.phrases, all.hits, all.centre_hits), (2, 1, 2));
        assert_eq!(all.accuracy(), Some(0.5));
        assert_eq!(all.chance(), Some(0.25));
        assert_eq!(Pointing::default().accuracy(), None);
    }

    #[test]
    fn any_box_counts_and_cells_count_once() {
        let mut all = Pointing::default();
        let boxes = [[0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 0.49, 0.49]];
        all.add(&[0.0, 0.0, 0.0, 1.0], 2, &boxes);
        assert_eq!((all.hits, all.chance()), (0, Some(0.25)));
        all.add(&[0.0, 0.0, 0.0, 1.0], 2, &[boxes[0], [0.6, 0.6, 1.0, 1.0]]);
        assert_eq!(all.hits, 1);
    }
}
