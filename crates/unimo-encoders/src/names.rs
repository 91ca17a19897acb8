//! Public checkpoints' names of our parameters, as tables that work in both directions.
//!
//! A [`Rule`] names a layer in our model and in the checkpoint, and says how the checkpoint stores its numbers. `{}` stands for
//! an index, the same on both sides; `{-1}` is the index before it and `{+1}` the one after it. A [`Section`] applies a table of
//! rules under a prefix on either side, so one table serves RoBERTa alone, in BridgeTower and in METER.

/// How a layer's numbers are stored in a public checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `weight` is `[out, in]`, ours is `[in, out]`; `bias` as it is.
    Linear,
    /// `weight` and `bias` as they are: norms, embeddings.
    Same,
    /// The name of the tensor itself, which is stored as it is.
    Tensor,
    /// As [`Form::Tensor`], with this many ones before the stored shape.
    Leading(usize),
    /// As [`Form::Tensor`], for one number, which is stored without a shape.
    Scalar,
    /// A convolution over patches: `weight` is `[D, 3, P, P]`, ours is the matrix `[3 P P, D]`; `bias` as it is.
    Patches,
    /// One third of PyTorch's `in_proj_weight` `[3 D, D]` and `in_proj_bias`: 0 query, 1 key, 2 value.
    Third(usize),
    /// As [`Form::Third`], of a linear layer that is stored as `weight` and `bias` (timm's `qkv`).
    Packed(usize),
    /// As [`Form::Scalar`], for a temperature that is stored as it is; ours is the logarithm of its inverse.
    Temperature,
    /// As [`Form::Leading`], for a position table of patches after class tokens; another grid is interpolated.
    Grid(usize),
    /// `weight` as it is; further rows of ours are copies of the last stored one. For types of images: a second image starts as the
    /// first (METER's NLVR2).
    Types,
    /// One row of a linear layer, as a layer with one output.
    Row(usize),
    /// One output of a linear layer that is stored as ours are, `[in, out]`, as a layer with one output.
    Column(usize),
}

/// A layer in our model and in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Path of the layer, or of the tensor for [`Form::Tensor`] and forms like it, with `{}` for indices.
    pub ours: &'static str,
    /// The same in the checkpoint.
    pub theirs: &'static str,
    /// How the checkpoint stores it.
    pub form: Form,
}

/// Short for a [`Rule`].
pub const fn rule(ours: &'static str, theirs: &'static str, form: Form) -> Rule {
    Rule { ours, theirs, form }
}

/// A table under a prefix on either side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Prefix of our names, without a dot at the end; may be empty.
    pub ours: String,
    /// Prefix of the checkpoint's names.
    pub theirs: String,
    /// The layers.
    pub rules: &'static [Rule],
}

/// How a tensor becomes ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conversion {
    /// As it is, with this many ones before the stored shape.
    Same(usize),
    /// As it is, one number, stored without a shape.
    Scalar,
    /// `[out, in]`, transposed.
    Transposed,
    /// `[out, 3, P, P]` read as `[out, 3 P P]`, transposed.
    Patches,
    /// Rows `i n .. (i + 1) n` of a tensor of `3 n` rows, then transposed if it is a matrix.
    Third(usize),
    /// One number, stored without a shape: the logarithm of its inverse.
    Temperature,
    /// As it is, or interpolated to another grid, with this many ones before the stored shape.
    Grid(usize),
    /// As it is; further rows of ours are copies of the last one.
    Types,
    /// This row of a matrix as a column, or this number of a vector.
    Row(usize),
    /// This column of a matrix, or this number of a vector.
    Column(usize),
}

/// What one of our parameters is called in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The tensor's name in the checkpoint.
    pub name: String,
    /// How it becomes ours.
    pub conversion: Conversion,
}

/// All names of a kind of checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Tables in the order in which they are tried.
    pub sections: Vec<Section>,
    /// Tensors in such checkpoints that this model does not use, as patterns. `*` is any one part of a name, and a pattern covers
    /// all names that begin with it.
    pub unused: Vec<String>,
    /// Pairs of checkpoint names for one tensor: a file may hold it under either.
    pub tied: Vec<[String; 2]>,
    /// Every name is ours, after this prefix.
    pub own: Option<String>,
    /// Lists of layers of ours that are numbered otherwise in the checkpoint: the prefix before the number, and for each layer of ours
    /// its number there.
    pub numbered: Vec<(String, Vec<usize>)>,
}

impl Names {
    /// The given tables, each under two prefixes.
    pub fn new<'a>(
        sections: impl IntoIterator<Item = (&'a str, &'a str, &'static [Rule])>,
        unused: &[&str],
    ) -> Self {
        let section = |(ours, theirs, rules): (&str, &str, _)| Section {
            ours: ours.to_owned(),
            theirs: theirs.to_owned(),
            rules,
        };
        Self {
            sections: sections.into_iter().map(section).collect(),
            unused: unused.iter().map(|name| (*name).to_owned()).collect(),
            tied: Vec::new(),
            own: None,
            numbered: Vec::new(),
        }
    }

    /// Our own names, as they are: what this project's own format holds.
    pub fn own() -> Self {
        Self {
            sections: Vec::new(),
            unused: Vec::new(),
            tied: Vec::new(),
            own: Some(String::new()),
            numbered: Vec::new(),
        }
    }

    /// The same names with a prefix before ours, for a module that holds this one as a field.
    pub fn within(mut self, field: &str) -> Self {
        for section in &mut self.sections {
            section.ours = join(field, &section.ours);
        }
        for (prefix, _) in &mut self.numbered {
            *prefix = join(field, prefix);
        }
        self
    }

    /// The same names with a prefix before theirs, for a checkpoint that holds this one as a part.
    pub fn under(mut self, prefix: &str) -> Self {
        for section in &mut self.sections {
            section.theirs = join(prefix, &section.theirs);
        }
        for unused in self.unused.iter_mut().chain(&mut self.own) {
            *unused = join(prefix, unused);
        }
        self
    }

    /// The same names, with more tensors that this model does not use.
    pub fn leaving(mut self, unused: &[&str]) -> Self {
        self.unused
            .extend(unused.iter().map(|name| (*name).to_owned()));
        self
    }

    /// The same names, with two of them as one tensor.
    pub fn tying(mut self, one: &str, other: &str) -> Self {
        self.tied.push([one.to_owned(), other.to_owned()]);
        self
    }

    /// The same names, where layer `i` of ours, under a prefix, is layer `layers[i]` of the checkpoint.
    pub fn numbering(mut self, prefix: &str, layers: &[usize]) -> Self {
        self.numbered.push((prefix.to_owned(), layers.to_vec()));
        self
    }

    /// The tables of both.
    pub fn and(mut self, other: Self) -> Self {
        self.sections.extend(other.sections);
        self.unused.extend(other.unused);
        self.tied.extend(other.tied);
        self.numbered.extend(other.numbered);
        self
    }

    /// What a checkpoint calls one of our parameters; `None` if there is no rule for it.
    pub fn target(&self, ours: &str) -> Option<Target> {
        let numbered = self.renumbered(ours)?;
        let ours = numbered.as_str();
        let listed = self.sections.iter().find_map(|section| {
            let rest = match section.ours.as_str() {
                "" => ours,
                prefix => ours.strip_prefix(prefix)?.strip_prefix('.')?,
            };
            section
                .rules
                .iter()
                .find_map(|rule| rule.target(rest, &section.theirs))
        });
        // Tables come first: they say what is not as it is.
        listed.or_else(|| {
            Some(Target {
                name: join(self.own.as_ref()?, ours),
                conversion: Conversion::Same(0),
            })
        })
    }

    /// Our name with the number that its layer has in the checkpoint; `None` for a layer that it does not have.
    fn renumbered(&self, ours: &str) -> Option<String> {
        let found = self.numbered.iter().find_map(|(prefix, layers)| {
            let rest = ours.strip_prefix(prefix.as_str())?.strip_prefix('.')?;
            let (number, rest) = rest.split_once('.')?;
            let number: usize = number.parse().ok()?;
            let there = layers.get(number);
            Some(there.map(|there| format!("{prefix}.{there}.{rest}")))
        });
        found.unwrap_or_else(|| Some(ours.to_owned()))
    }

    /// The other names under which a checkpoint may hold a tensor.
    pub fn twins<'a>(&'a self, theirs: &'a str) -> impl Iterator<Item = &'a str> {
        self.tied.iter().filter_map(move |[one, other]| {
            if one == theirs {
                Some(other.as_str())
            } else {
                (other == theirs).then_some(one.as_str())
            }
        })
    }

    /// Whether such checkpoints hold this tensor although the model does not use it.
    pub fn is_unused(&self, theirs: &str) -> bool {
        self.unused.iter().any(|pattern| covers(pattern, theirs))
    }
}

impl Rule {
    fn target(&self, ours: &str, prefix: &str) -> Option<Target> {
        let (layer, parameter) = match self.form {
            Form::Tensor | Form::Leading(_) | Form::Scalar | Form::Temperature | Form::Grid(_) => {
                (ours, "")
            }
            _ => ours.rsplit_once('.')?,
        };
        let indices = matched(self.ours, layer)?;
        let mut name = join(prefix, &filled(self.theirs, &indices)?);
        let conversion = match (self.form, parameter) {
            (Form::Tensor, _) => Conversion::Same(0),
            (Form::Leading(ones), _) => Conversion::Same(ones),
            (Form::Scalar, _) => Conversion::Scalar,
            (Form::Temperature, _) => Conversion::Temperature,
            (Form::Grid(ones), _) => Conversion::Grid(ones),
            (Form::Linear, "weight") => Conversion::Transposed,
            (Form::Patches, "weight") => Conversion::Patches,
            (Form::Same, "weight") | (Form::Linear | Form::Patches | Form::Same, "bias") => {
                Conversion::Same(0)
            }
            (Form::Third(part) | Form::Packed(part), "weight" | "bias") => Conversion::Third(part),
            (Form::Types, "weight") => Conversion::Types,
            (Form::Row(row), "weight" | "bias") => Conversion::Row(row),
            (Form::Column(column), "weight" | "bias") => Conversion::Column(column),
            _ => return None,
        };
        match self.form {
            Form::Tensor | Form::Leading(_) | Form::Scalar | Form::Temperature | Form::Grid(_) => {}
            Form::Third(_) => name.push_str(&format!("_{parameter}")),
            _ => name.push_str(&format!(".{parameter}")),
        }
        Some(Target { name, conversion })
    }
}

/// The parts of `name` at each `{}` of `pattern`, if the other parts are equal.
fn matched<'a>(pattern: &str, name: &'a str) -> Option<Vec<&'a str>> {
    let mut found = Vec::new();
    let mut name = name.split('.');
    for part in pattern.split('.') {
        match (part, name.next()?) {
            ("{}", index) => found.push(index),
            (part, other) if part == other => {}
            _ => return None,
        }
    }
    name.next().is_none().then_some(found)
}

fn filled(pattern: &str, indices: &[&str]) -> Option<String> {
    let mut indices = indices.iter();
    let mut parts = Vec::new();
    for part in pattern.split('.') {
        parts.push(match part {
            "{}" => (*indices.next()?).to_owned(),
            "{-1}" => {
                let index: usize = indices.next()?.parse().ok()?;
                index.checked_sub(1)?.to_string()
            }
            "{+1}" => {
                let index: usize = indices.next()?.parse().ok()?;
                index.checked_add(1)?.to_string()
            }
            _ => part.to_owned(),
        });
    }
    Some(parts.join("."))
}

/// A name after a prefix, if there is a prefix.
pub(crate) fn join(prefix: &str, name: &str) -> String {
    match (prefix, name) {
        ("", name) => name.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, name) => format!("{prefix}.{name}"),
    }
}

/// Whether a name begins with the parts of a pattern, where `*` is any one part.
pub fn covers(pattern: &str, name: &str) -> bool {
    let mut name = name.split('.');
    pattern.split('.').all(|part| {
        name.next()
            .is_some_and(|other| part == "*" || part == other)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &[Rule] = &[
        rule("layers.{}.query", "layer.{}.self.query", Form::Linear),
        rule("layers.{}.key", "blocks.{}.in_proj", Form::Third(1)),
        rule("norm", "LayerNorm", Form::Same),
        rule("class", "class_embedding", Form::Tensor),
        rule("patches", "conv1", Form::Patches),
        rule("links.0", "first", Form::Same),
        rule("links.{}", "link.{-1}.LayerNorm", Form::Same),
    ];

    #[test]
    fn own_names_may_stand_behind_a_prefix() {
        let names = Names::own().under("backbone").leaving(&["objectives"]);
        let name = |names: &Names| names.target("text.norm.bias").unwrap().name;
        assert_eq!(name(&names), "backbone.text.norm.bias");
        assert_eq!(name(&Names::own()), "text.norm.bias");
        assert!(names.is_unused("objectives.mlm.bias") && !names.is_unused("backbone.objectives"));
    }

    #[test]
    fn layers_may_have_other_numbers_there() {
        let names = Names::new([("text", "bert", RULES)], &[]).numbering("text.layers", &[0, 2]);
        let name = |ours: &str| names.target(ours).map(|target| target.name);
        let there = |number| format!("bert.layer.{number}.self.query.bias");
        assert_eq!(name("text.layers.0.query.bias"), Some(there(0)));
        assert_eq!(name("text.layers.1.query.bias"), Some(there(2)));
        assert_eq!(name("text.layers.2.query.bias"), None);
        assert_eq!(name("text.norm.bias").unwrap(), "bert.LayerNorm.bias");
        let own = Names::own().numbering("a.layers", &[1]);
        assert_eq!(own.target("a.layers.0.b").unwrap().name, "a.layers.1.b");
    }

    #[test]
    fn names_are_translated_with_their_indices() {
        let names = Names::new([("text", "roberta.encoder", RULES)], &["lm_head"]).within("model");
        let target = |ours: &str| {
            let target = names.target(ours)?;
            Some((target.name, target.conversion))
        };
        for (ours, theirs, conversion) in [
            (
                "layers.11.query.weight",
                "layer.11.self.query.weight",
                Conversion::Transposed,
            ),
            (
                "layers.11.query.bias",
                "layer.11.self.query.bias",
                Conversion::Same(0),
            ),
            (
                "layers.0.key.weight",
                "blocks.0.in_proj_weight",
                Conversion::Third(1),
            ),
            (
                "layers.0.key.bias",
                "blocks.0.in_proj_bias",
                Conversion::Third(1),
            ),
            ("norm.weight", "LayerNorm.weight", Conversion::Same(0)),
            ("class", "class_embedding", Conversion::Same(0)),
            ("patches.weight", "conv1.weight", Conversion::Patches),
            ("links.0.bias", "first.bias", Conversion::Same(0)),
            ("links.3.bias", "link.2.LayerNorm.bias", Conversion::Same(0)),
        ] {
            let expected = (format!("roberta.encoder.{theirs}"), conversion);
            assert_eq!(target(&format!("model.text.{ours}")), Some(expected));
        }
        assert_eq!(target("model.text.layers.0.query.scale"), None);
        assert_eq!(target("model.text.layers.0.value.weight"), None);
        assert_eq!(target("model.texts.norm.weight"), None);
        assert!(names.is_unused("lm_head.bias") && !names.is_unused("lm_heads.bias"));
    }

    #[test]
    fn patterns_cover_what_begins_with_them() {
        assert!(covers("a.*.c", "a.1.c.weight"));
        assert!(covers("a", "a.1"));
        assert!(!covers("a.*.c", "a.1.d"));
        assert!(!covers("a.b", "a"));
    }
}
