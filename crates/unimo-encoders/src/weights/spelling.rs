//! What a file puts around a tensor's own name, and which tensors are set aside.
//!
//! Wrappers put parts into names (`module.` of data-parallel training, `_orig_mod.` of `torch.compile`). Training scripts nest
//! the weights in dictionaries (`{"model": {"state_dict": ...}}`) beside the optimiser's state. Old releases spelt layer norms
//! differently. All of these may be mixed, in any order and number.

use std::collections::{BTreeMap, BTreeSet};

/// Parts that wrappers put anywhere into a name.
const ANYWHERE: [&str; 4] = [
    "_orig_mod",
    "_forward_module",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];

/// Parts before names: wrappers and dictionaries. No model that is read here has a top-level layer of such a name.
const BEFORE: [&str; 9] = [
    "module",
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "checkpoint",
    "net",
    "network",
    "weights",
];

/// Parts that are left off only where all names begin with them: a module may be called so, too.
const SHARED: [&str; 16] = [
    "encoder",
    "backbone",
    "clip",
    "_model",
    "_module",
    "wrapped",
    "wrapped_model",
    "orig_module",
    "inner_model",
    "base_model",
    "hf_model",
    "pl_module",
    "lightning_module",
    "params",
    "student",
    "teacher",
];

/// What stands behind `backbone.` in this program's own names.
const OWN: [&str; 5] = ["text", "image", "regions", "fusion", "joint"];

/// Those of [`BEFORE`] that are keys of dictionaries: what lies beside such a key is not the model.
const DICTIONARIES: [&str; 3] = ["state_dict", "model_state_dict", "model_state"];

/// Averages of the weights, which training scripts keep beside them.
const AVERAGES: [&str; 7] = [
    "ema",
    "params_ema",
    "model_ema",
    "ema_model",
    "ema_state_dict",
    "model_ema_state_dict",
    "state_dict_ema",
];

/// Other things that training scripts keep.
const TRAINING: [&str; 17] = [
    "optimizer",
    "optimizers",
    "optimizer_state",
    "optimizer_state_dict",
    "optimizer_states",
    "opt",
    "scheduler",
    "lr_scheduler",
    "lr_schedulers",
    "scheduler_state_dict",
    "scaler",
    "grad_scaler",
    "amp",
    "amp_scaler",
    "loops",
    "callbacks",
    "rng_state",
];

/// How a file spells its names.
#[derive(Debug, Default)]
pub(super) struct Spelling {
    /// The average that the names are read from, if the file has nothing else.
    average: Option<&'static str>,
    /// The dictionary that holds the weights, if there is one.
    dictionary: Option<&'static str>,
    /// Those of [`SHARED`] that all names begin with, in their order.
    shared: Vec<&'static str>,
    /// Stripped parts, with the number of names.
    left_off: BTreeMap<String, usize>,
    /// Parts that are set aside, with the number of tensors.
    aside: BTreeMap<String, usize>,
    /// Old layer norms: those with a `gamma`. A `beta` alone is a number of BridgeTower's links.
    norms: BTreeSet<String>,
}

impl Spelling {
    /// The spelling of a file with these names.
    pub(super) fn of<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Self {
        let mut spelling = Self::default();
        let within = |dictionary: &&str| {
            names.clone().any(|name| match Self::default().split(name) {
                Split::Own { left_off, .. } => parts(&left_off).any(|part| part == *dictionary),
                Split::Aside(_) => false,
            })
        };
        spelling.dictionary = DICTIONARIES.into_iter().find(within);
        let weights = |spelling: &Self| names.clone().any(|name| spelling.today(name).is_some());
        if !weights(&spelling) {
            let averaged = |average: &&str| {
                names
                    .clone()
                    .any(|name| parts(name).any(|part| part == *average))
            };
            spelling.average = AVERAGES.into_iter().find(|average| averaged(average));
        }
        while let Some(shared) = spelling.shared_by(names.clone()) {
            spelling.shared.push(shared);
        }
        for name in names {
            match spelling.split(name) {
                Split::Own {
                    left_off,
                    name: own,
                } => {
                    if let Some((layer, "gamma")) = own.rsplit_once('.') {
                        spelling.norms.insert(layer.to_owned());
                    }
                    if !left_off.is_empty() {
                        *spelling.left_off.entry(left_off).or_default() += 1;
                    }
                }
                Split::Aside(section) => *spelling.aside.entry(section).or_default() += 1,
            }
        }
        spelling
    }

    /// A name as the model itself has it today; `None` if the tensor is set aside.
    pub(super) fn today(&self, name: &str) -> Option<String> {
        let Split::Own { name, .. } = self.split(name) else {
            return None;
        };
        Some(match name.rsplit_once('.') {
            Some((layer, "gamma")) => format!("{layer}.weight"),
            Some((layer, "beta")) if self.norms.contains(layer) => format!("{layer}.bias"),
            _ => name,
        })
    }

    /// One line for each thing that was done.
    pub(super) fn notes(&self) -> Vec<String> {
        let names = |count: usize| match count {
            1 => "1 name".to_owned(),
            count => format!("{count} names"),
        };
        let left_off = self
            .left_off
            .iter()
            .map(|(parts, count)| format!("`{parts}` is left off {}", names(*count)));
        let aside = self.aside.iter().map(|(section, count)| {
            format!("`{section}`, {count} tensors that training keeps, is left aside")
        });
        left_off.chain(aside).collect()
    }

    /// One of [`SHARED`] that all names of the model begin with as they are split now.
    fn shared_by<'a>(&self, names: impl Iterator<Item = &'a str>) -> Option<&'static str> {
        let mut found = None;
        for name in names {
            let Split::Own { name, .. } = self.split(name) else {
                continue;
            };
            let mut all = parts(&name);
            let (first, second) = (all.next()?, all.next()?);
            let part = SHARED.into_iter().find(|part| *part == first)?;
            if (part == "backbone" && OWN.contains(&second)) || *found.get_or_insert(part) != part {
                return None;
            }
        }
        found.filter(|part| !self.shared.contains(part))
    }

    fn split(&self, name: &str) -> Split {
        let mut left_off = String::new();
        let mut own: Vec<&str> = Vec::new();
        let mut all = parts(name).peekable();
        let mut shared = self.shared.iter().peekable();
        while let Some(part) = all.next() {
            // The last part is the tensor's own, whatever it is called.
            let last = all.peek().is_none();
            // Each of these is left off once: BERT's blocks are in an `encoder` of their own.
            let is_shared = own.is_empty() && !last && shared.peek() == Some(&&part);
            if is_shared {
                shared.next();
            }
            let before = BEFORE.contains(&part) || self.average == Some(part) || is_shared;
            let before = own.is_empty() && before;
            if !last && (ANYWHERE.contains(&part) || before) {
                left_off.push_str(part);
                left_off.push('.');
                continue;
            }
            let kept_by_training = AVERAGES.contains(&part) || TRAINING.contains(&part);
            if !last && own.is_empty() && kept_by_training {
                return Split::Aside(format!("{left_off}{part}"));
            }
            own.push(part);
        }
        let beside = self
            .dictionary
            .is_some_and(|dictionary| !parts(&left_off).any(|part| part == dictionary));
        if beside {
            return Split::Aside(own.first().copied().unwrap_or_default().to_owned());
        }
        Split::Own {
            name: own.join("."),
            left_off,
        }
    }
}

enum Split {
    Own { name: String, left_off: String },
    Aside(String),
}

fn parts(name: &str) -> impl Iterator<Item = &str> {
    name.split('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn today(names: &[&str]) -> (Vec<Option<String>>, Vec<String>) {
        let spelling = Spelling::of(names.iter().copied());
        let found = names.iter().map(|name| spelling.today(name)).collect();
        (found, spelling.notes())
    }

    #[test]
    fn what_stands_around_a_name_is_left_off() {
        for name in [
            "a.b.weight",
            "module.a.b.weight",
            "_orig_mod.a.b.weight",
            "module._orig_mod.a.b.weight",
            "_orig_mod.module.a.b.weight",
            "model.state_dict.a.b.weight",
            "state_dict.model.module._orig_mod.a.b.weight",
            "a._orig_mod.b.weight",
            "_forward_module.a._fsdp_wrapped_module.b.weight",
            "a.b.gamma",
            "module.a.b.gamma",
        ] {
            let (found, notes) = today(&[name]);
            assert_eq!(found, [Some("a.b.weight".to_owned())], "{name}");
            let plain = name.starts_with("a.b.");
            assert_eq!(notes.is_empty(), plain, "{name}: {notes:?}");
        }
        let (found, _) = today(&["a.norm.gamma", "a.norm.beta", "a.link.beta"]);
        let expected = ["a.norm.weight", "a.norm.bias", "a.link.beta"];
        assert_eq!(found, expected.map(|name| Some(name.to_owned())));
        // No layer has such a name, but a tensor may.
        for name in ["a.model.weight", "a.module.b", "model", "vision_model.x"] {
            assert_eq!(today(&[name]).0, [Some(name.to_owned())]);
        }
    }

    #[test]
    fn what_all_names_begin_with_is_left_off() {
        for before in ["encoder.", "backbone.", "student.", "module.params._model."] {
            let names = [
                "embeddings.x.weight",
                "encoder.layer.0.weight",
                "pooler.weight",
            ];
            let wrapped = names.map(|name| format!("{before}{name}"));
            let (found, notes) = today(&wrapped.each_ref().map(String::as_str));
            assert_eq!(found, names.map(|name| Some(name.to_owned())), "{before}");
            assert_eq!(notes, [format!("`{before}` is left off 3 names")]);
            assert_eq!(today(&names).0, names.map(|name| Some(name.to_owned())));
        }
        let (found, _) = today(&["params.a.weight", "params_ema.a.weight"]);
        assert_eq!(found, [Some("a.weight".to_owned()), None]);
        for names in [
            ["student.a.weight", "teacher.a.weight"],
            ["backbone.text.a", "backbone.image.a"],
            ["vision_model.a", "vision_model.b"],
            ["encoder", "encoder.a"],
        ] {
            assert_eq!(today(&names).0, names.map(|name| Some(name.to_owned())));
        }
    }

    #[test]
    fn what_training_keeps_is_left_aside_and_counted() {
        let (found, notes) = today(&[
            "model.module.x.weight",
            "optimizer.state.0.exp_avg",
            "ema.x.weight",
            "ema.y.weight",
        ]);
        assert_eq!(found, [Some("x.weight".to_owned()), None, None, None]);
        assert_eq!(
            notes,
            [
                "`model.module.` is left off 1 name",
                "`ema`, 2 tensors that training keeps, is left aside",
                "`optimizer`, 1 tensors that training keeps, is left aside"
            ]
        );
        // What lies beside a dictionary of weights is not part of the model, whatever its name.
        let (found, notes) = today(&["state_dict.x.weight", "hyper_parameters.prior"]);
        assert_eq!(found, [Some("x.weight".to_owned()), None]);
        assert!(notes[1].contains("hyper_parameters"), "{notes:?}");
        // If there is nothing else, the average is used.
        let (found, notes) = today(&["optimizer.0.exp_avg", "state_dict_ema.x.weight"]);
        assert_eq!(found, [None, Some("x.weight".to_owned())]);
        assert!(notes[0].contains("state_dict_ema"), "{notes:?}");
    }
}
