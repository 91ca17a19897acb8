//! Retrieval against chance, as tables and over the steps of a run.

use std::fmt::Write as _;

use super::{method_name, multiple_of_chance};
use crate::charts::{Colour, LineChart, Range, Series};
use crate::html::escape;
use crate::numbers::{Format, grouped};
use crate::page::{Section, cards};
use crate::record::{self, ChanceRecord, EvalRecord, RecallRecord, RetrievalRecord, RunFolder};

pub(crate) fn retrieval(folder: &RunFolder) -> Option<Section> {
    let evals: Vec<&EvalRecord> = folder
        .evals
        .iter()
        .chain(&folder.later_evals)
        .filter(|eval| !eval.retrieval.is_empty())
        .collect();
    let mut splits: Vec<&str> = Vec::new();
    for eval in &evals {
        if !splits.contains(&eval.split.as_str()) {
            splits.push(&eval.split);
        }
    }
    let mut body = String::new();
    for split in splits {
        let of_split: Vec<&EvalRecord> = evals
            .iter()
            .filter(|eval| eval.split == split)
            .copied()
            .collect();
        let Some(last) = of_split.last() else {
            continue;
        };
        body.push_str(&retrieval_table(last, &of_split));
        if of_split.len() > 1 {
            body.push_str(&retrieval_curves(&of_split));
        }
    }
    if body.is_empty() {
        return None;
    }
    let lead = "R@k: share of queries with a right answer among the first k, in per cent. In brackets: its 95 % confidence interval \
                (Wilson), from the number of queries alone; another seed adds to it."
        .to_owned();
    Some(Section {
        anchor: "retrieval",
        title: "Retrieval",
        lead,
        body,
    })
}

fn retrieval_table(last: &EvalRecord, of_split: &[&EvalRecord]) -> String {
    let mut out = String::from(
        "<div class=\"card\"><div class=\"scroll\"><table class=\"retrieval\">\n<caption>",
    );
    let _ = write!(
        out,
        "<b>{}</b> at step {}: {} images, {} texts",
        escape(if last.split.is_empty() {
            "Held-out pairs"
        } else {
            &last.split
        }),
        grouped(last.step as f64),
        grouped(last.images as f64),
        grouped(last.texts as f64)
    );
    out.push_str(
        "</caption>\n<thead><tr><th rowspan=\"2\" scope=\"col\">method</th><th colspan=\"4\" scope=\"colgroup\">text → image</th>\
         <th colspan=\"4\" scope=\"colgroup\">image → text</th></tr>\n<tr>",
    );
    for _ in 0..2 {
        out.push_str("<th scope=\"col\">R@1</th><th scope=\"col\">R@5</th><th scope=\"col\">R@10</th><th scope=\"col\">median rank</th>");
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    let chance = last.chance.as_ref();
    let best = |value: &dyn Fn(&RetrievalRecord) -> f64| {
        last.retrieval
            .iter()
            .map(value)
            .fold(f64::NEG_INFINITY, f64::max)
    };
    let (best_image, best_text) = (
        best(&|method| method.text_to_image.r1),
        best(&|method| method.image_to_text.r1),
    );
    for method in &last.retrieval {
        let _ = write!(
            out,
            "<tr><th scope=\"row\">{}</th>",
            escape(&method_name(&method.method))
        );
        recall_cells(
            &mut out,
            &method.text_to_image,
            chance.map(|chance| &chance.text_to_image),
            last.texts,
            best_image,
        );
        recall_cells(
            &mut out,
            &method.image_to_text,
            chance.map(|chance| &chance.image_to_text),
            last.images,
            best_text,
        );
        out.push_str("</tr>\n");
    }
    if let Some(chance) = chance {
        out.push_str("<tr class=\"chance\"><th scope=\"row\">chance</th>");
        for recall in [&chance.text_to_image, &chance.image_to_text] {
            recall_cells(&mut out, recall, None, 0, f64::INFINITY);
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>");
    let best = record::best(of_split.iter().copied());
    if let Some((eval, score)) = best.filter(|_| of_split.len() > 1) {
        let _ = write!(
            out,
            "<p class=\"under\">Best of {} evaluations by the mean of R@1, R@5 and R@10: {} at step {}.</p>",
            of_split.len(),
            Format::Percent.value(score),
            grouped(eval.step as f64)
        );
    }
    if of_split
        .iter()
        .any(|eval| (eval.images, eval.texts) != (last.images, last.texts))
    {
        out.push_str("<p class=\"under\">The pool changed during the run; R@k of different pools cannot be compared.</p>");
    }
    out.push_str("</div>\n");
    out
}

/// Four cells of one direction; `queries` is what the interval is for, none if zero.
fn recall_cells(
    out: &mut String,
    recall: &RecallRecord,
    chance: Option<&RecallRecord>,
    queries: u64,
    best: f64,
) {
    let percent = |value: f64| {
        if value.is_finite() {
            format!("{:.*}", if value < 0.0995 { 2 } else { 1 }, 100.0 * value)
        } else {
            "–".to_owned()
        }
    };
    for (index, value) in [recall.r1, recall.r5, recall.r10].into_iter().enumerate() {
        let is_best = index == 0 && value == best;
        let _ = write!(
            out,
            "<td{}>{}",
            if is_best { " class=\"best\"" } else { "" },
            percent(value)
        );
        if index == 0 && queries > 0 && value.is_finite() {
            let (from, to) = wilson(value, queries);
            let _ = write!(
                out,
                "<small>[{:.1}, {:.1}]</small>",
                100.0 * from,
                100.0 * to
            );
        }
        let random = chance.map(|chance| [chance.r1, chance.r5, chance.r10][index]);
        if let Some(multiple) = random.and_then(|random| multiple_of_chance(value, random)) {
            let _ = write!(out, "<small>{multiple} chance</small>");
        }
        out.push_str("</td>");
    }
    let rank = if recall.median_rank.is_finite() {
        recall.median_rank.to_string()
    } else {
        "–".to_owned()
    };
    let _ = write!(out, "<td>{rank}</td>");
}

/// 95 % confidence interval of a share out of `count` trials (Wilson 1927).
fn wilson(share: f64, count: u64) -> (f64, f64) {
    /// 97.5 % quantile of the normal distribution.
    const Z: f64 = 1.959_963_985;
    let n = count as f64;
    let middle = (share + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n)
        * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n))
            .max(0.0)
            .sqrt();
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

fn retrieval_curves(of_split: &[&EvalRecord]) -> String {
    let mut methods: Vec<&str> = Vec::new();
    for method in of_split.iter().flat_map(|eval| &eval.retrieval) {
        if !methods.contains(&method.method.as_str()) {
            methods.push(&method.method);
        }
    }
    let chart = |title: &str,
                 found: &dyn Fn(&RetrievalRecord) -> f64,
                 random: &dyn Fn(&ChanceRecord) -> f64| {
        let mut chart = LineChart::new(title)
            .unit("R@1")
            .format(Format::Percent)
            .range(Range::FromZero);
        for (slot, method) in methods.iter().enumerate() {
            let points = of_split.iter().filter_map(|eval| {
                let record = eval
                    .retrieval
                    .iter()
                    .find(|record| record.method == *method)?;
                Some((eval.step as f64, found(record)))
            });
            chart = chart.series(
                Series::new(method_name(method), Colour::Slot(slot), points.collect()).markers(),
            );
        }
        if let Some(chance) = of_split.last().and_then(|eval| eval.chance.as_ref()) {
            chart = chart.reference(random(chance), "chance");
        }
        chart
    };
    cards(vec![
        chart(
            "Text → image",
            &|record| record.text_to_image.r1,
            &|chance| chance.text_to_image.r1,
        ),
        chart(
            "Image → text",
            &|record| record.image_to_text.r1,
            &|chance| chance.image_to_text.r1,
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bounds from Wilson's formula at its ends: never outside 0 to 1, and not empty for no or all hits.
    #[test]
    fn intervals_stay_inside_the_unit_range() {
        assert_eq!(wilson(0.0, 100).0, 0.0);
        assert!((wilson(0.0, 100).1 - 0.0370).abs() < 1e-4);
        assert!((wilson(1.0, 100).0 - 0.9630).abs() < 1e-4);
        assert!(wilson(1.0, 100).1 <= 1.0);
    }
}
