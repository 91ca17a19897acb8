//! Heads that objectives share.
//!
//! A lent head is the same parameters once more, so that its gradients add up with the lender's. It is no parameter of the borrower, which
//! neither stores nor updates it; so it is lent anew whenever parameters change.

use std::any::Any;

/// The heads that may be borrowed, as they are now. An objective finds one by its type, so that this file knows none of them.
#[derive(Default)]
pub struct Lenders(Vec<Box<dyn Any>>);

impl Lenders {
    /// The same with a head, if the recipe has it.
    #[must_use]
    pub fn with<H: Clone + 'static>(mut self, head: Option<&H>) -> Self {
        self.0
            .extend(head.map(|head| Box::new(head.clone()) as Box<dyn Any>));
        self
    }

    /// The head of this type; `None` if the recipe has none.
    pub fn of<H: 'static>(&self) -> Option<&H> {
        self.0.iter().find_map(|head| head.downcast_ref())
    }
}

/// A head in the place of an own one.
#[derive(Debug, Clone)]
pub(crate) struct Lent<H>(Option<Box<H>>);

impl<H> Default for Lent<H> {
    fn default() -> Self {
        Self(None)
    }
}

impl<H: Clone> Lent<H> {
    /// Takes the lender's head, unless there is one of its own.
    pub(crate) fn renew(&mut self, own: Option<&H>, lender: Option<&H>) {
        let lender = lender.filter(|_| own.is_none());
        self.0 = lender.cloned().map(Box::new);
    }

    /// Its own head, or the one that is lent.
    ///
    /// # Panics
    ///
    /// Panics if there is neither, which validation of the recipe finds.
    pub(crate) fn or<'a>(&'a self, own: Option<&'a H>) -> &'a H {
        own.or(self.0.as_deref())
            .expect("invariant: validation finds a head to share")
    }
}
