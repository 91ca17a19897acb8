//! What a misspelt name may have been meant to be.

/// Least similarity (Jaro-Winkler, 0 to 1) of a name that is worth naming.
const ALIKE: f64 = 0.8;

/// Least similarity of a name that was surely misspelt.
const CLOSE: f64 = 0.92;

/// Whether one of these names is the given one, misspelt.
pub(crate) fn is_misspelt<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> bool {
    let mut known = known.into_iter();
    known.any(|name| strsim::jaro_winkler(given, name) >= CLOSE)
}

/// The known name that is most like the given one, if one is like it at all.
pub(crate) fn nearest<'a>(
    given: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let likeness = |name: &str| strsim::jaro_winkler(given, name);
    let all = known.into_iter().map(|name| (likeness(name), name));
    let alike = all.filter(|(likeness, _)| *likeness >= ALIKE);
    alike
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_only_if_it_is_near() {
        let known = ["steps", "batch_size", "clip_norm", "dtype"];
        assert_eq!(nearest("stepz", known), Some("steps"));
        assert_eq!(nearest("clip_nrom", known), Some("clip_norm"));
        assert_eq!(nearest("batchsize", known), Some("batch_size"));
        assert_eq!(nearest("weights", known), None);
        assert_eq!(nearest("", known), None);
        assert!(is_misspelt("stepz", known) && is_misspelt("batch_sise", known));
        assert!(!is_misspelt("lr", ["lora", "clip_norm"]));
    }
}
