//! What is shown as it stands in the run folder: items that were skipped, and the recipe.

use std::fmt::Write as _;

use crate::html::{self, escape};
use crate::numbers::grouped;
use crate::page::Section;
use crate::record::RunFolder;

pub(crate) fn skipped(folder: &RunFolder) -> Option<Section> {
    if folder.skipped_count == 0 {
        return None;
    }
    let count = grouped(folder.skipped_count as f64);
    let lead = match folder.skipped_count {
        1 => "One item of the data could not be used.".to_owned(),
        all if all == folder.skipped.len() => {
            format!("{count} items of the data could not be used.")
        }
        _ => format!(
            "{count} items of the data could not be used; the first {} are shown, all are in {}.",
            folder.skipped.len(),
            folder.skipped_lists.join(" and ")
        ),
    };
    let mut body = String::from(
        "<div class=\"card\"><div class=\"scroll\"><table class=\"skipped\"><thead><tr><th scope=\"col\">file</th><th scope=\"col\">line</th>\
         <th scope=\"col\">reason</th></tr></thead><tbody>\n",
    );
    for item in &folder.skipped {
        let line = item
            .line
            .map(|line| grouped(line as f64))
            .unwrap_or_default();
        let _ = writeln!(
            body,
            "<tr><td><code>{}</code></td><td>{line}</td><td>{}</td></tr>",
            escape(&item.file),
            escape(&item.reason)
        );
    }
    body.push_str("</tbody></table></div></div>\n");
    Some(Section {
        anchor: "skipped",
        title: "Skipped items",
        lead,
        body,
    })
}

pub(crate) fn recipe(folder: &RunFolder) -> Section {
    let lines = folder.recipe.lines().count();
    let body = format!(
        "<details class=\"card recipe\"><summary>recipe.toml, {lines} lines</summary><pre><code>{}</code></pre></details>\n",
        html::toml(&folder.recipe)
    );
    Section {
        anchor: "recipe",
        title: "Recipe",
        lead: "The resolved recipe: every setting with its value, defaults included.".to_owned(),
        body,
    }
}
