//! The comparison as a page.

use maud::{Markup, html};

use super::Comparison;
use super::blocks::{Block, blocks, interval, signed, spread, value};
use super::charts::charts;
use crate::charts::SLOTS;
use crate::numbers::{duration, grouped};
use crate::page::{Section, document, header};
use crate::sections::multiple_of_chance;

const STYLE: &str = include_str!("page.css");

pub(super) fn page(comparison: &Comparison) -> String {
    let sections: Vec<Section> = [
        Some(runs(comparison)),
        differences(comparison),
        scores(comparison),
        curves(comparison, true),
        curves(comparison, false),
    ]
    .into_iter()
    .flatten()
    .collect();
    let count = |count: usize, one: &str| match count {
        1 => format!("1 {one}"),
        count => format!("{count} {one}s"),
    };
    let facts = [
        ("runs", grouped(comparison.runs.len() as f64)),
        ("set-ups", grouped(comparison.setups.len() as f64)),
    ];
    let names: Vec<&str> = comparison.setups.iter().map(|setup| &*setup.name).collect();
    let title = match names.len() {
        0..4 => names.join(" · "),
        more => count(more, "set-up"),
    };
    let body = html! {
        (header("unimo · comparison of runs", &title, &facts, &sections))
        main {
            @if !comparison.notes.is_empty() {
                div.notes {
                    b { "Before comparing" }
                    ul { @for note in &comparison.notes { li { (note) } } }
                }
            }
            @for section in &sections { (section.to_html()) }
        }
    };
    document(&format!("{title} – unimo comparison"), STYLE, &body)
}

fn runs(comparison: &Comparison) -> Section {
    let body = html! {
        div.card {
            div.scroll {
                table.compare {
                    thead {
                        tr {
                            @for head in ["run", "set-up", "seed", "steps", "best step", "best score", "time", "parameters", "held-out data", "device"] {
                                th scope="col" { (head) }
                            }
                        }
                    }
                    tbody {
                        @for run in &comparison.runs {
                            tr {
                                th scope="row" title=(run.folder.display()) { (run.name) }
                                td { (run.setup) }
                                td { (run.seed) }
                                td {
                                    (grouped(run.step as f64))
                                    @if !run.finished { " of " (grouped(run.steps as f64)) ", unfinished" }
                                }
                                td { @if let Some(step) = run.best_step { (grouped(step as f64)) } @else { "–" } }
                                td {
                                    @if let Some(score) = run.best_score { (format!("{score:.4}")) } @else { "–" }
                                    @if !run.best_by.is_empty() { small { (run.best_by) } }
                                }
                                td { (run.seconds.map_or("–".to_owned(), duration)) }
                                td { (run.parameters.map_or("–".to_owned(), |count| grouped(count as f64))) }
                                td { (run.held_out) }
                                td { (run.device) }
                            }
                        }
                    }
                }
            }
        }
    };
    Section {
        anchor: "runs",
        title: "Runs",
        lead: "Runs whose recipes differ by the seed alone are one set-up. Runs with the same letter of held-out data are evaluated on \
               the same rows."
            .to_owned(),
        body,
    }
}

fn differences(comparison: &Comparison) -> Option<Section> {
    if comparison.setups.len() < 2 {
        return None;
    }
    let body = html! {
        div.card {
            div.scroll {
                table.compare.settings {
                    thead {
                        tr {
                            th scope="col" { "key" }
                            @for setup in &comparison.setups { th scope="col" { (setup.name) } }
                        }
                    }
                    tbody {
                        @for (key, values) in &comparison.differences {
                            tr {
                                th scope="row" { code { (key) } }
                                @for value in values {
                                    td { @if let Some(value) = value { code { (value) } } @else { "–" } }
                                }
                            }
                        }
                    }
                }
            }
        }
    };
    Some(Section {
        anchor: "recipes",
        title: "What differs",
        lead: "Keys of the resolved recipes that are not the same in all set-ups, and the data where it is not; a dash is an absent key."
            .to_owned(),
        body,
    })
}

fn scores(comparison: &Comparison) -> Option<Section> {
    let blocks = blocks(comparison);
    if blocks.is_empty() {
        return None;
    }
    Some(Section {
        anchor: "scores",
        title: "Scores",
        lead: "Shares in per cent. In brackets: the 95 % confidence interval of a share (Wilson), from the number of queries alone. A set-up: \
               mean ± standard deviation over its finished runs. A difference: mean ± standard error over the seeds that both set-ups have, \
               seed by seed; few seeds make both rough."
            .to_owned(),
        body: html! { @for block in &blocks { (scores_of(comparison, block)) } },
    })
}

fn scores_of(comparison: &Comparison, block: &Block<'_>) -> Markup {
    let pairs = block.pairs();
    let dash = || "–".to_owned();
    html! {
        div.card {
            h3 { (block.title()) }
            div.scroll {
                table.compare {
                    thead {
                        tr {
                            th scope="col" { "" }
                            @for number in &block.numbers { th scope="col" { (number) } }
                        }
                    }
                    tbody {
                        @for setup in &comparison.setups {
                            @for run in &setup.runs {
                                @if block.numbers.iter().any(|number| block.score(*run, number).is_some()) {
                                    tr {
                                        th scope="row" { (comparison.runs[*run].name) }
                                        @for number in &block.numbers { (score(block, *run, number)) }
                                    }
                                }
                            }
                            @if setup.runs.len() > 1 {
                                tr.mean {
                                    th scope="row" { (setup.name) ": mean" }
                                    @for number in &block.numbers {
                                        td {
                                            (block.aggregate(&setup.name, number).map_or_else(dash, |a| {
                                                spread(value(a.mean, a.share), a.deviation, a.n, a.share)
                                            }))
                                        }
                                    }
                                }
                            }
                        }
                        @for pair in &pairs {
                            tr.difference {
                                th scope="row" { (pair.0) " − " (pair.1) }
                                @for number in &block.numbers {
                                    td {
                                        (block.paired(*pair, number).map_or_else(dash, |p| {
                                            spread(signed(p.mean, p.share), p.error, p.n, p.share)
                                        }))
                                    }
                                }
                            }
                        }
                        @if block.numbers.iter().any(|number| block.chance(number).is_some()) {
                            tr.chance {
                                th scope="row" { "chance" }
                                @for number in &block.numbers {
                                    td { (block.chance(number).map_or_else(dash, |chance| value(chance, is_share(comparison, block, number)))) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn is_share(comparison: &Comparison, block: &Block<'_>, number: &str) -> bool {
    let mut runs = 0..comparison.runs.len();
    runs.any(|run| block.score(run, number).is_some_and(|score| score.share))
}

fn score(block: &Block<'_>, run: usize, number: &str) -> Markup {
    let Some(score) = block.score(run, number) else {
        return html! { td { "–" } };
    };
    let multiple = score
        .chance
        .and_then(|chance| multiple_of_chance(score.value, chance));
    html! {
        td {
            (value(score.value, score.share))
            @if score.interval.is_some() { small { (interval(score)) } }
            @if let Some(multiple) = multiple { small { (multiple) " chance" } }
        }
    }
}

fn curves(comparison: &Comparison, evaluation: bool) -> Option<Section> {
    let body = charts(comparison, evaluation)?;
    let colours = match comparison.setups.len() {
        1 => "Each run has a colour.",
        more if more > SLOTS => {
            "Runs of a set-up have one colour and differ by their dashes; there are more set-ups than colours, which start over."
        }
        _ => "Runs of a set-up have one colour and differ by their dashes.",
    };
    let (anchor, title, what) = if evaluation {
        (
            "evaluations",
            "Evaluations",
            "Evaluations of the same held-out set over each other.",
        )
    } else {
        (
            "losses",
            "Losses and accuracy",
            "Running means; the reports of the runs have the values behind them.",
        )
    };
    Some(Section {
        anchor,
        title,
        lead: format!(
            "{what} {colours} Time is that of training, evaluations included, and depends on the machine."
        ),
        body,
    })
}
