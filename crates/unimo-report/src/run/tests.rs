//! Whole reports, of sound and of broken runs.

use std::fs;

use super::*;
use crate::page::data_address;
use crate::sections::pictures::image_address;

/// The text that a hostile or just unlucky data set may hold anywhere.
const MARKUP: &str = "</script><img src=x onerror='alert(1)'>&\"";

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nnot much of an image";

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let run = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = run.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    run
}

fn report(files: &[(&str, &[u8])]) -> String {
    render(folder(files).path()).unwrap()
}

fn full(text: &str) -> String {
    let quoted = serde_json::to_string(text).unwrap();
    let run = format!(
        "{{\"name\":{quoted},\"recipe\":{quoted},\"seed\":7,\"device\":{quoted},\"backend\":\"flex\",\"started\":\"2026-11-21T23:43:21.5Z\",\
         \"versions\":{{\"unimo\":\"0.1.0\",{quoted}:{quoted}}},\"parameters\":31204352,\"data\":{quoted},{quoted}:{quoted}}}"
    );
    let metrics: String = (1..=40)
        .map(|index| {
            format!(
                "{{\"step\":{},\"epoch\":{},\"loss\":{},\"lr\":1e-4,\"grad_norm\":1.5,\"pairs_per_second\":31.0,\"step_seconds\":0.5,\
                 \"wait_seconds\":0.01,\"losses\":{{\"mlm\":{{\"loss\":2.0,\"accuracy\":0.25,\"count\":33}},{quoted}:{{\"loss\":1.0}}}},\
                 \"elapsed_seconds\":{}}}\n",
                10 * index,
                0.1 * f64::from(index),
                8.0 / f64::from(index),
                200 * index
            )
        })
        .collect();
    let recall = |r1: f64| format!("{{\"r1\":{r1},\"r5\":0.5,\"r10\":0.6,\"median_rank\":5}}");
    let evals = format!(
        "{{\"step\":400,\"split\":{quoted},\"images\":500,\"texts\":500,\"retrieval\":[{{\"method\":\"itc+itm\",\"text_to_image\":{},\
         \"image_to_text\":{}}},{{\"method\":{quoted},\"text_to_image\":{},\"image_to_text\":{}}}],\"chance\":{{\"text_to_image\":{},\
         \"image_to_text\":{}}}}}\n",
        recall(0.246),
        recall(0.3),
        recall(0.1),
        recall(0.1),
        recall(0.002),
        recall(0.01)
    );
    let gates = format!(
        "{{\"text\":{{\"levels\":[\"V0\",{quoted}],\"layers\":[[1.0],[0.25,0.75]]}},\"words\":{{\"caption\":[\"a\",{quoted}],\
         \"layers\":[[[1.0],[1.0]],[[0.5,0.5],[0.1,null]]]}}}}"
    );
    let gallery = format!(
        "{{\"items\":[{{\"image\":\"gallery/0.png\",\"truth\":[{quoted}],\"captions\":[{{\"text\":{quoted},\"score\":0.91,\"right\":true}},\
         {{\"text\":\"b\",\"score\":null,\"right\":false}}]}}]}}"
    );
    let skipped = format!("{{\"file\":{quoted},\"line\":3,\"reason\":{quoted}}}\n");
    report(&[
        (
            "recipe.toml",
            format!("name = {quoted} # {text}\n").as_bytes(),
        ),
        ("run.json", run.as_bytes()),
        ("metrics.jsonl", metrics.as_bytes()),
        ("evals.jsonl", evals.as_bytes()),
        ("gates.json", gates.as_bytes()),
        ("gallery.json", gallery.as_bytes()),
        ("gallery/0.png", PNG),
        ("skipped.jsonl", skipped.as_bytes()),
    ])
}

#[test]
fn a_full_run_shows_everything() {
    let page = full("plain");
    for anchor in [
        "losses",
        "retrieval",
        "gates",
        "gallery",
        "dynamics",
        "skipped",
        "recipe",
    ] {
        assert!(
            page.contains(&format!("<section id=\"{anchor}\">")),
            "{anchor}"
        );
    }
    assert!(!page.contains("Please note"));
    assert!(page.contains("123× chance<br>") && page.contains("30× chance<br>"));
    assert!(
        page.contains("2026-11-21 23:43 UTC")
            && page.contains("31,204,352")
            && page.contains("2:13:20 <small>h")
    );
    assert!(page.contains(&format!("src=\"{}\"", data_address(PNG).unwrap())));
    assert!(page.contains("aria-label=\"right\"") && page.contains("aria-label=\"wrong\""));
    // 123 of 500: the roots of |p - 0.246| = 1.96 sqrt(p (1 - p) / 500) are 0.2103 and 0.2856.
    assert!(page.contains("[21.0, 28.6]"));
}

#[test]
fn unusable_items_found_later_are_told_beside_those_that_the_data_counts() {
    let line = "{\"file\":\"a\",\"line\":3,\"reason\":\"r\"}\n";
    let page = |lists: &[(&str, &[u8])]| {
        let run = (
            "run.json",
            &br#"{"data":"a list, 5 unusable","unusable_when_opened":5}"#[..],
        );
        report(&[&[("recipe.toml", &b""[..]), run], lists].concat())
    };
    let nine = line.repeat(9);
    let told = page(&[("skipped.jsonl", nine.as_bytes())]);
    let words = "9, 5 of them found when the data was opened and 4 later";
    assert!(told.contains("unusable items in all") && told.contains(words));
    assert!(told.contains("9 items of the data could not be used, 5 of them found when"));
    let stages = page(&[
        ("skipped.jsonl", nine.as_bytes()),
        ("skipped-2.jsonl", line.as_bytes()),
    ]);
    assert!(stages.contains("unusable items in all") && !stages.contains("of them found when"));
    assert!(!page(&[]).contains("unusable items in all"));
}

#[test]
fn no_text_of_the_run_becomes_markup() {
    let page = full(MARKUP);
    assert!(!page.contains("<img src=x") && !page.contains("alert(1)'>"));
    assert_eq!(page.matches("</script>").count(), 1);
    assert_eq!(page.matches("<script>").count(), 1);
}

#[test]
fn the_page_makes_no_request() {
    let page = full("plain");
    assert!(page.contains("default-src 'none'"));
    for attribute in ["src=\"", "href=\""] {
        for (at, _) in page.match_indices(attribute) {
            let target = &page[at + attribute.len()..];
            assert!(
                target.starts_with("data:image/") || target.starts_with('#'),
                "{}",
                &target[..40]
            );
        }
    }
    assert!(!page.contains("url(") && !page.contains("@import") && !page.contains("<link"));
}

#[test]
fn a_recipe_alone_is_enough() {
    let page = report(&[("recipe.toml", b"a = 1\n")]);
    assert_eq!(page.matches("<section ").count(), 1);
    assert!(page.contains("<section id=\"recipe\">") && !page.contains("Please note"));
}

#[test]
fn a_folder_without_recipe_is_refused() {
    let run = folder(&[("metrics.jsonl", b"")]);
    assert!(matches!(render(run.path()), Err(ReportError::NotARun(_))));
    assert!(matches!(
        render(&run.path().join("nowhere")),
        Err(ReportError::NotARun(_))
    ));
    let error = render(&run.path().join("metrics.jsonl")).unwrap_err();
    assert!(error.to_string().contains("recipe.toml"), "{error}");
}

#[test]
fn a_diverged_run_is_shown_and_named() {
    let metrics =
        "{\"step\":1,\"loss\":7.0}\n{\"step\":2,\"loss\":null}\n{\"step\":3,\"loss\":null}\n";
    let page = report(&[("recipe.toml", b""), ("metrics.jsonl", metrics.as_bytes())]);
    assert!(page.contains(
        "not a finite number at 2 of 3 logged steps, first at step 2; the run ended that way"
    ));
    // Two steps, in each of the chart's two widths.
    assert_eq!(page.matches("class=\"plot-gap\"").count(), 4);
}

#[test]
fn images_from_outside_the_run_are_left_out() {
    let run = folder(&[
        ("run/recipe.toml", b""),
        ("run/text.png", b"no image"),
        ("secret.png", PNG),
    ]);
    let outside = run.path().join("secret.png");
    for name in [
        "../secret.png",
        outside.to_str().unwrap(),
        "gone.png",
        "text.png",
        "",
    ] {
        assert!(
            image_address(&run.path().join("run"), name).is_err(),
            "{name}"
        );
    }
    let gallery = br#"{"items":[{"image":"../secret.png","truth":[],"captions":[]}]}"#;
    let page = report(&[("recipe.toml", b""), ("gallery.json", gallery)]);
    assert!(page.contains("image left out") && page.contains("inside the run folder"));
}
