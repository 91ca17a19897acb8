//! Features of samples by name.
//!
//! Shape legend: `N` samples, `E` width of the features.

use burn::tensor::Tensor;

/// Features of the same samples by name, `[N, E]` each.
#[derive(Debug, Clone, Default)]
pub struct Features(Vec<(&'static str, Tensor<2>)>);

impl Features {
    /// Features under the names by which the objective asks for them.
    pub fn new(named: Vec<(&'static str, Tensor<2>)>) -> Self {
        Self(named)
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
        Self(self.0.iter().map(|(name, x)| (*name, change(x))).collect())
    }

    /// The samples of all parts, one part after the other.
    pub(crate) fn cat(parts: &[Self]) -> Self {
        let Some(first) = parts.first() else {
            return Self::default();
        };
        let of = |name| Tensor::cat(parts.iter().map(|part| part.of(name)).collect(), 0);
        Self(first.0.iter().map(|(name, _)| (*name, of(name))).collect())
    }

    /// The sum of all products with the numbers of the same name, which track no gradient, `[1]`; `None` if there is no feature.
    pub(crate) fn dot(&self, numbers: &Self) -> Option<Tensor<1>> {
        let product = |(name, x): &(&'static str, Tensor<2>)| {
            let mut factor = numbers.of(name).autodiff();
            if let Some(strategy) = x.gradient_checkpointing_strategy() {
                factor = factor.with_gradient_checkpointing_strategy(strategy);
            }
            (x.clone() * factor).sum()
        };
        self.0.iter().map(product).reduce(|a, b| a + b)
    }
}
