//! Holds nuncio's report against Envoy's, or against the outcome that a scenario states instead.

use super::observe::{Report, Seen};
use super::scenario::{Expect, Scenario};

/// What differs, as text for a person; steps with an outcome of our own are held against that.
pub(super) fn compare(scenario: &Scenario, theirs: &Report, ours: &Report) -> Result<(), String> {
    let mut differences = String::new();
    for ((step, theirs), ours) in scenario.steps.iter().zip(&theirs.steps).zip(&ours.steps) {
        let difference = match &step.expect {
            Some(expect) if expect.or_envoy && theirs.lines == ours.lines => String::new(),
            Some(expect) => deviation(expect, ours),
            None => diff(&theirs.lines, &ours.lines),
        };
        if !difference.is_empty() {
            differences += &format!("[{}]\n{difference}", step.label);
        }
    }
    let lists = [
        ("stats", &theirs.stats, &ours.stats),
        ("admin", &theirs.admin, &ours.admin),
        ("access log", &theirs.log, &ours.log),
    ];
    for (what, theirs, ours) in lists {
        let difference = diff(theirs, ours);
        if !difference.is_empty() {
            differences += &format!("[{what}]\n{difference}");
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(differences) }
}

/// Envoy's lines with `-` where ours lack them, ours with `+` where Envoy has them not; nothing where both are equal.
fn diff(theirs: &[String], ours: &[String]) -> String {
    if theirs == ours {
        return String::new();
    }
    let mut rest = ours.to_vec();
    let mut text = String::new();
    for line in theirs {
        match rest.iter().position(|other| other == line) {
            Some(at) => {
                rest.remove(at);
                text += &format!("      {line}\n");
            }
            None => text += &format!("  -   {line}\n"),
        }
    }
    text.extend(rest.iter().map(|line| format!("  +   {line}\n")));
    if rest.is_empty()
        && let Some(at) = theirs.iter().zip(ours).position(|(their, our)| their != our)
    {
        text += &format!("(in another order, from line {at}: {:?}, {:?})\n", theirs[at], ours[at]);
    }
    text
}

fn deviation(expect: &Expect, ours: &Seen) -> String {
    let mut text = String::new();
    if !expect.status.is_empty() && !expect.status.contains(&ours.status) {
        text += &format!("  status {} is none of {:?}\n", ours.status, expect.status);
    }
    if let Some(wanted) = expect.upstream
        && ours.at_upstream != wanted
    {
        text += &format!("  {} requests at the upstream, {wanted} expected\n", ours.at_upstream);
    }
    if let Some(end) = &expect.end
        && !ours.lines.iter().any(|line| line == &format!("> {end}"))
    {
        text += &format!("  the connection is not {end}\n");
    }
    if !text.is_empty() {
        text.extend(ours.lines.iter().map(|line| format!("  +   {line}\n")));
    }
    text
}
