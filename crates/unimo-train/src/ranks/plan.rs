//! In which order gradients are sent: those first that are whole first.
//!
//! Whichever order it is, it must be the same on all ranks, and it changes no sum. In the first step of a session gradients are sent in the
//! module's order, when the backward pass has ended, and all ranks note when each was heard and whether it was whole. From then on they
//! go out in the order in which rank 0 heard them, those that any rank heard too early at the end.

use serde::{Deserialize, Serialize};

/// The order of a session; nothing: it is not known yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan(Option<Known>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    order: Vec<usize>,
    /// How many of the order may be sent before the backward pass ends.
    early: usize,
}

/// What a rank has heard in a step without a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Heard {
    /// The parameters, in the order in which their gradients were heard.
    pub order: Vec<usize>,
    /// Those whose gradients were not whole.
    pub too_early: Vec<usize>,
}

impl Plan {
    /// The plan for `parameters` parameters, from what all ranks have heard.
    pub fn of(parameters: usize, heard: &[Heard]) -> Self {
        let is_wrong = |at: &usize| heard.iter().any(|rank| rank.too_early.contains(at));
        let mut is_placed = vec![false; parameters];
        let mut place = |at: usize| !std::mem::replace(&mut is_placed[at], true);
        // What rank 0 has not heard, as where its batches lack something, comes after what it has.
        let all = heard.iter().flat_map(|rank| rank.order.iter().copied());
        let mut order: Vec<usize> = all
            .filter(|at| *at < parameters && !is_wrong(at) && place(*at))
            .collect();
        let early = order.len();
        order.extend((0..parameters).filter(|at| place(*at)));
        Self(Some(Known { order, early }))
    }

    /// The order for a number of parameters, and how many of them may be sent before the backward pass ends. The module's order, where
    /// nothing is known of these parameters.
    pub fn order(&self, parameters: usize) -> (Vec<usize>, Option<usize>) {
        match &self.0 {
            Some(known) if known.order.len() == parameters => {
                (known.order.clone(), Some(known.early))
            }
            _ => ((0..parameters).collect(), None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(order: &[usize], too_early: &[usize]) -> Heard {
        Heard {
            order: order.to_vec(),
            too_early: too_early.to_vec(),
        }
    }

    #[test]
    fn what_is_heard_first_is_sent_first() {
        let plan = Plan::of(6, &[heard(&[4, 2, 3], &[2]), heard(&[5, 4, 3], &[])]);
        assert_eq!(plan.order(6), (vec![4, 3, 5, 0, 1, 2], Some(3)));
        // Other parameters learn now.
        assert_eq!(plan.order(2), (vec![0, 1], None));
        assert_eq!(Plan::default().order(2), (vec![0, 1], None));
        // On a GPU nothing is heard.
        assert_eq!(
            Plan::of(2, &[heard(&[], &[])]).order(2),
            (vec![0, 1], Some(0))
        );
    }
}
