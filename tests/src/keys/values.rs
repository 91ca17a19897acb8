//! Default values as TOML.

use std::collections::HashMap;

use syn::punctuated::Punctuated;
use syn::{BinOp, Expr, ItemEnum, ItemStruct, Lit, Member, Token, Type, UnOp};

use crate::keys::ABSENT;
use crate::keys::sources::{Item, Module, Sources, serde_word, serde_words, variant_name};

/// The defaults of the keys of a table.
pub(super) struct Defaults<'a> {
    sources: &'a Sources,
    module: Module,
    /// Whether every key may be left out.
    all: bool,
    /// The values of a `Default` that is written out.
    written: HashMap<String, Expr>,
}

impl<'a> Defaults<'a> {
    /// No key may be left out unless it says so itself.
    pub(super) fn none(sources: &'a Sources, module: &Module) -> Self {
        Self {
            sources,
            module: module.clone(),
            all: false,
            written: HashMap::new(),
        }
    }

    /// The defaults of a struct.
    pub(super) fn of_struct(sources: &'a Sources, module: &Module, item: &ItemStruct) -> Self {
        let words = serde_words(&item.attrs);
        // A table that is read by hand takes every key that is there.
        let by_hand = !item.attrs.iter().any(|attribute| {
            let derives = attribute.path().is_ident("derive");
            derives && quoted(attribute).contains("Deserialize")
        });
        let all = by_hand || words.iter().any(|(word, _)| word == "default");
        let written = match sources.default_of(module, &item.ident.to_string()) {
            Some(Expr::Struct(value)) if all => value
                .fields
                .iter()
                .filter_map(|field| match &field.member {
                    Member::Named(name) => Some((name.to_string(), field.expr.clone())),
                    Member::Unnamed(_) => None,
                })
                .collect(),
            _ => HashMap::new(),
        };
        Self {
            sources,
            module: module.clone(),
            all,
            written,
        }
    }

    /// The default of a key; `None` if it must be there.
    pub(super) fn of(
        &self,
        module: &Module,
        name: &str,
        ty: &Type,
        optional: bool,
        words: &[(String, Option<String>)],
    ) -> Option<String> {
        let own = words.iter().find(|(word, _)| word == "default");
        match own {
            Some((_, Some(function))) if function == "Option::default" => {
                return Some(ABSENT.to_owned());
            }
            Some((_, Some(function))) => {
                let path: Vec<String> = function.split("::").map(str::to_owned).collect();
                let (module, expr) = self
                    .sources
                    .given(module, &path)
                    .unwrap_or_else(|| panic!("{}: no function {function}", module.join("::")));
                return Some(self.sources.value(&module, expr));
            }
            Some((_, None)) => return Some(self.sources.default_value(module, ty)),
            None => {}
        }
        if let Some(expr) = self.written.get(name) {
            return Some(self.sources.value(&self.module, expr));
        }
        if self.all {
            return Some(self.sources.default_value(module, ty));
        }
        optional.then(|| ABSENT.to_owned())
    }
}

fn quoted(attribute: &syn::Attribute) -> String {
    match &attribute.meta {
        syn::Meta::List(list) => list.tokens.to_string(),
        _ => String::new(),
    }
}

/// The length of an array's type.
pub(super) fn length(expr: &Expr) -> String {
    match expr {
        Expr::Lit(lit) => match &lit.lit {
            Lit::Int(number) => number.base10_digits().to_owned(),
            other => panic!("a length that is not understood: {other:?}"),
        },
        other => panic!("a length that is not understood: {other:?}"),
    }
}

impl Sources {
    /// What `Default::default` of a type gives.
    fn default_value(&self, module: &Module, ty: &Type) -> String {
        let Type::Path(path) = ty else {
            panic!("{}: no default of {ty:?}", module.join("::"))
        };
        let names = path.path.segments.iter().map(|s| s.ident.to_string());
        let names: Vec<String> = names.collect();
        let plain = match names.last().map(String::as_str) {
            Some("Option") => Some(ABSENT),
            Some("bool") => Some("false"),
            Some("usize" | "u64" | "u32" | "u8" | "i64") => Some("0"),
            Some("f64" | "f32") => Some("0.0"),
            Some("String" | "PathBuf") => Some("\"\""),
            Some("Vec") => Some("[]"),
            Some("BTreeMap") => Some("{}"),
            _ => None,
        };
        match plain {
            Some(plain) => plain.to_owned(),
            None => self.default_named(module, &names),
        }
    }

    /// The default of a type of the workspace.
    fn default_named(&self, from: &Module, names: &[String]) -> String {
        let found = self.find(from, names);
        let name = names.last().map(String::as_str).unwrap_or_default();
        if let Some(expr) = self.default_of(found.module, name) {
            return self.value(found.module, expr);
        }
        match found.item {
            Item::Alias(ty) => self.default_value(found.module, ty),
            Item::Enum(item) => {
                let default = item
                    .variants
                    .iter()
                    .find(|v| v.attrs.iter().any(|a| a.path().is_ident("default")));
                let default = default.unwrap_or_else(|| panic!("{name} has no default: {from:?}"));
                format!("\"{}\"", variant_name(item, default))
            }
            Item::Struct(item) => {
                let fields = item.fields.iter().filter_map(|field| {
                    let value = self.default_value(found.module, &field.ty);
                    Some((field.ident.as_ref()?.to_string(), value))
                });
                table(fields)
            }
        }
    }

    /// An expression as TOML; [`ABSENT`] for `None`.
    fn value(&self, module: &Module, expr: &Expr) -> String {
        let unclear = || -> ! {
            panic!(
                "{}: a default value that is not understood; write it as a literal: {expr:?}",
                module.join("::")
            )
        };
        match expr {
            Expr::Lit(lit) => match &lit.lit {
                Lit::Int(number) => number.base10_digits().to_owned(),
                Lit::Float(number) => number.base10_digits().to_owned(),
                Lit::Bool(value) => value.value.to_string(),
                Lit::Str(text) => format!("{:?}", text.value()),
                _ => unclear(),
            },
            Expr::Paren(inner) => self.value(module, &inner.expr),
            Expr::Group(inner) => self.value(module, &inner.expr),
            Expr::Unary(inner) if matches!(inner.op, UnOp::Neg(_)) => {
                format!("-{}", self.value(module, &inner.expr))
            }
            Expr::Binary(inner) => {
                let side = |expr| self.value(module, expr).parse::<u64>().ok();
                let sides = side(&inner.left).zip(side(&inner.right));
                match (&inner.op, sides) {
                    (BinOp::Shl(_), Some((left, right))) => (left << right).to_string(),
                    (BinOp::Add(_), Some((left, right))) => (left + right).to_string(),
                    (BinOp::Mul(_), Some((left, right))) => (left * right).to_string(),
                    _ => unclear(),
                }
            }
            Expr::Array(array) => {
                let all: Vec<String> = array.elems.iter().map(|e| self.value(module, e)).collect();
                format!("[{}]", all.join(", "))
            }
            Expr::Repeat(repeat) => {
                let one = self.value(module, &repeat.expr);
                let length = self.value(module, &repeat.len).parse().unwrap_or(1);
                format!("[{}]", vec![one; length].join(", "))
            }
            Expr::Macro(call) if call.mac.path.is_ident("vec") => {
                let all = call
                    .mac
                    .parse_body_with(Punctuated::<Expr, Token![,]>::parse_terminated)
                    .unwrap_or_else(|_| unclear());
                let all: Vec<String> = all.iter().map(|e| self.value(module, e)).collect();
                format!("[{}]", all.join(", "))
            }
            Expr::MethodCall(call)
                if ["to_owned", "to_string", "into", "to_vec", "collect", "map"]
                    .iter()
                    .any(|name| call.method == name)
                    && call.args.is_empty() =>
            {
                self.value(module, &call.receiver)
            }
            Expr::Path(path) => {
                let names = path.path.segments.iter().map(|s| s.ident.to_string());
                let names: Vec<String> = names.collect();
                if names == ["None"] {
                    return ABSENT.to_owned();
                }
                if let Some((module, given)) = self.given(module, &names) {
                    return self.value(&module, given);
                }
                match self.variant(module, &names) {
                    Some((item, variant)) => {
                        format!("\"{}\"", variant_name(item, &item.variants[variant]))
                    }
                    None => unclear(),
                }
            }
            Expr::Call(call) => {
                let Expr::Path(path) = &*call.func else {
                    unclear()
                };
                let names = path.path.segments.iter().map(|s| s.ident.to_string());
                let names: Vec<String> = names.collect();
                let words: Vec<&str> = names.iter().map(String::as_str).collect();
                match (&words[..], call.args.first()) {
                    (["Some"] | ["PathBuf", "from"] | ["String", "from"], Some(inner)) => {
                        self.value(module, inner)
                    }
                    (["Vec", "new"], None) => "[]".to_owned(),
                    (["BTreeMap", "new"], None) => "{}".to_owned(),
                    (["String" | "PathBuf", "new"], None) => "\"\"".to_owned(),
                    ([.., "Option", "default"], None) => ABSENT.to_owned(),
                    ([.., _, "default"], None) => {
                        self.default_named(module, &names[..names.len() - 1])
                    }
                    (_, None) => match self.given(module, &names) {
                        Some((module, given)) => self.value(&module, given),
                        None => unclear(),
                    },
                    (_, Some(inner)) => match self.variant(module, &names) {
                        Some((item, variant)) => {
                            let name = variant_name(item, &item.variants[variant]);
                            format!("{{ {name} = {} }}", self.value(module, inner))
                        }
                        None => unclear(),
                    },
                }
            }
            Expr::Struct(value) if value.rest.is_none() => {
                let fields = value.fields.iter().filter_map(|field| match &field.member {
                    Member::Named(name) => {
                        Some((name.to_string(), self.value(module, &field.expr)))
                    }
                    Member::Unnamed(_) => None,
                });
                let names = value.path.segments.iter().map(|s| s.ident.to_string());
                let names: Vec<String> = names.collect();
                let tagged = self.variant(module, &names).map(|(item, variant)| {
                    let tag = serde_word(&item.attrs, "tag").unwrap_or_default();
                    let name = variant_name(item, &item.variants[variant]);
                    (tag, format!("\"{name}\""))
                });
                table(tagged.into_iter().chain(fields))
            }
            _ => unclear(),
        }
    }

    /// The enumeration of `Enum::Variant` or `Self::Variant`, and the variant's number.
    fn variant(&self, module: &Module, names: &[String]) -> Option<(&ItemEnum, usize)> {
        let [.., of, variant] = names else {
            return None;
        };
        let number = |item: &ItemEnum| item.variants.iter().position(|v| v.ident == *variant);
        if of == "Self" {
            return self
                .enums_of(module)
                .find_map(|item| Some((item, number(item)?)));
        }
        match self.find(module, &names[..names.len() - 1]).item {
            Item::Enum(item) => Some((item, number(item)?)),
            Item::Struct(_) | Item::Alias(_) => None,
        }
    }
}

/// A table as TOML, without what is absent.
fn table(fields: impl Iterator<Item = (String, String)>) -> String {
    let fields = fields.filter(|(_, value)| value != ABSENT);
    let fields: Vec<String> = fields
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    if fields.is_empty() {
        "{}".to_owned()
    } else {
        format!("{{ {} }}", fields.join(", "))
    }
}
