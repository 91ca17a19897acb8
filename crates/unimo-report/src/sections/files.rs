//! Files of the run folder that are shown as they are: the list of skipped items, and the recipe.

use maud::html;

use crate::numbers::grouped;
use crate::page::Section;
use crate::record::RunFolder;

pub(crate) fn skipped(folder: &RunFolder) -> Option<Section> {
    if folder.skipped_count == 0 {
        return None;
    }
    let count = grouped(folder.skipped_count as f64);
    let when = folder.found_when();
    let lead = match folder.skipped_count {
        1 => format!("One item of the data could not be used{when}."),
        all if all == folder.skipped.len() => {
            format!("{count} items of the data could not be used{when}.")
        }
        _ => format!(
            "{count} items of the data could not be used{when}; the first {} are shown, all are in {}.",
            folder.skipped.len(),
            folder.skipped_lists.join(" and ")
        ),
    };
    let body = html! {
        div.card {
            div.scroll {
                table.skipped {
                    thead {
                        tr { th scope="col" { "file" } th scope="col" { "line" } th scope="col" { "reason" } }
                    }
                    tbody {
                        @for item in &folder.skipped {
                            tr {
                                td { code { (item.file) } }
                                td { @if let Some(line) = item.line { (grouped(line as f64)) } }
                                td { (item.reason) }
                            }
                        }
                    }
                }
            }
        }
    };
    Some(Section {
        anchor: "skipped",
        title: "Skipped items",
        lead,
        body,
    })
}

pub(crate) fn recipe(folder: &RunFolder) -> Section {
    let lines = folder.recipe.lines().count();
    let body = html! {
        details.card.recipe {
            summary { "recipe.toml, " (lines) " lines" }
            pre { code { (folder.recipe) } }
        }
    };
    Section {
        anchor: "recipe",
        title: "Recipe",
        lead: "The resolved recipe: every setting with its value, defaults included.".to_owned(),
        body,
    }
}
