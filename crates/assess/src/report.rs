//! The assessment on paper: `report.json` for programs, `report.html` for people.

mod format;
mod json;
mod labels;
mod plot;
mod view;

use crate::Assessment;
use askama::Template;

/// Name of the layout of `report.json`; it changes when a field changes its meaning or goes.
pub const SCHEMA: &str = "coffer-assessment/1";

/// `report.json`, indented. Figures that are not finite are `null`.
pub fn json(assessment: &Assessment) -> String {
    json::write(assessment)
}

/// `report.html`: one page that needs nothing else, neither files, nor network, nor scripts.
///
/// # Errors
/// The template fails only if memory does.
pub fn html(assessment: &Assessment) -> Result<String, askama::Error> {
    view::Page::new(assessment).render()
}

#[cfg(test)]
mod tests;
