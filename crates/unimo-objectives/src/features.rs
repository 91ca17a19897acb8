//! Features of samples by name.
//!
//! Shape legend: `N` samples, `E` width of the features.

use std::borrow::Cow;

use burn::tensor::Tensor;

/// Features of the same samples by name, `[N, E]` each.
#[derive(Debug, Clone, Default)]
pub struct Features(Vec<(Cow<'static, str>, Tensor<2>)>);

impl Features {
    /// Features under the names by which the objective asks for them.
    pub fn new(named: Vec<(&'static str, Tensor<2>)>) -> Self {
        let named = named.into_iter();
        Self(named.map(|(name, x)| (Cow::Borrowed(name), x)).collect())
    }

    /// Features that another rank has named.
    pub(crate) fn named(named: impl Iterator<Item = (String, Tensor<2>)>) -> Self {
        Self(named.map(|(name, x)| (Cow::Owned(name), x)).collect())
    }

    /// Each with its name, in order.
    pub(crate) fn each(&self) -> impl Iterator<Item = (&str, &Tensor<2>)> {
        self.0.iter().map(|(name, x)| (&**name, x))
    }

    /// The features of this name.
    pub fn get(&self, name: &str) -> Option<&Tensor<2>> {
        let found = self.0.iter().find(|(other, _)| *other == name);
        found.map(|(_, features)| features)
    }

    /// The features of this name, which the objective has given.
    ///
    /// # Panics
    ///
    /// Panics if it has not given them.
    pub fn of(&self, name: &str) -> Tensor<2> {
        let found = self.get(name);
        found
            .expect("invariant: an objective asks for what it gave")
            .clone()
    }

    /// The same with `change` applied to each.
    pub(crate) fn map(&self, change: impl Fn(&Tensor<2>) -> Tensor<2>) -> Self {
        let each = self.0.iter();
        Self(each.map(|(name, x)| (name.clone(), change(x))).collect())
    }

    /// The samples of all parts, one part after the other.
    pub(crate) fn cat(parts: &[Self]) -> Self {
        let Some(first) = parts.first() else {
            return Self::default();
        };
        let of = |name| Tensor::cat(parts.iter().map(|part| part.of(name)).collect(), 0);
        let each = first.0.iter();
        Self(each.map(|(name, _)| (name.clone(), of(name))).collect())
    }

    /// The sum of all products with the numbers of the same name, which track no gradient, `[1]`; `None` if there is no feature.
    pub(crate) fn dot(&self, numbers: &Self) -> Option<Tensor<1>> {
        let product = |(name, x): &(Cow<'static, str>, Tensor<2>)| {
            let mut factor = numbers.of(name).autodiff();
            if let Some(strategy) = x.gradient_checkpointing_strategy() {
                factor = factor.with_gradient_checkpointing_strategy(strategy);
            }
            (x.clone() * factor).sum()
        };
        self.0.iter().map(product).reduce(|a, b| a + b)
    }
}
