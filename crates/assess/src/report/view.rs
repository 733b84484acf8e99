//! What the page shows, as text: the template only arranges it.

use super::{
    format,
    plot::{Canvas, Plot},
};
use crate::{
    Assessment, Verdict,
    assessment::Assessed,
    exhibits::{Exhibits, Serving},
    figures::{FIGURES, Figure, Risk},
    pareto,
    policy::{Limit, Reason},
};

#[derive(askama::Template)]
#[template(path = "report.html")]
pub(super) struct Page<'a> {
    reference: &'a str,
    headline: String,
    lede: Vec<String>,
    columns: Vec<&'static Figure>,
    rows: Vec<Row<'a>>,
    plots: Vec<Plot>,
    front: &'static str,
    limits: Vec<LimitRow>,
    risks: Vec<ModelRisks<'a>>,
    exhibits: &'a Exhibits,
    wire: Option<Wire>,
    method: Vec<(&'static str, String)>,
    portability: Vec<PortabilityRow>,
    definitions: &'static [Figure],
    schema: &'static str,
}

/// A line of the table of decisions.
struct Row<'a> {
    name: &'a str,
    made: &'a str,
    on_front: bool,
    decision: Decision,
    cells: Vec<Option<Cell>>,
}

struct Cell {
    value: String,
    error: Option<String>,
    /// Whether the policy refuses it.
    failing: bool,
}

/// What the policy says, in words.
struct Decision {
    class: &'static str,
    word: &'static str,
    reasons: Vec<String>,
}

struct LimitRow {
    name: &'static str,
    figure: &'static str,
    demand: String,
    key: &'static str,
    refuses: String,
}

struct ModelRisks<'a> {
    name: &'a str,
    made: &'a str,
    digest: String,
    types: String,
    decision: Decision,
    risks: Vec<RiskCard>,
}

struct RiskCard {
    risk: Risk,
    figures: Vec<(String, String)>,
    note: Option<&'static str>,
}

struct PortabilityRow {
    name: String,
    ways: String,
    result: String,
}

/// The two sides of the wire.
struct Wire {
    request: Vec<String>,
    answer: Vec<String>,
}

/// Figures of the table of decisions.
const COLUMNS: [&str; 11] = [
    "bytes",
    "bits_per_weight",
    "perplexity",
    "kl_mean",
    "kl_p99",
    "same_top",
    "pairs_right",
    "flips",
    "decode_tokens_per_second",
    "peak_memory",
    "distinct_logits",
];

impl<'a> Page<'a> {
    pub(super) fn new(a: &'a Assessment) -> Self {
        let shown = |f: &&'static Figure| a.models.iter().any(|m| f.read(&m.measured).is_some());
        let columns: Vec<_> = COLUMNS.iter().filter_map(|id| Figure::find(id)).filter(shown).collect();
        let canvases = [Canvas { id: "wide", width: 860.0, height: 430.0 }, Canvas { id: "narrow", width: 350.0, height: 380.0 }];
        Self {
            reference: a.reference().map_or("", |r| &r.name),
            headline: headline(a),
            lede: lede(a),
            rows: a.models.iter().map(|m| row(m, &columns)).collect(),
            columns,
            plots: canvases.into_iter().filter_map(|c| Plot::new(a, c)).collect(),
            front: pareto::DEFINITION,
            limits: limits(a),
            risks: a.models.iter().map(|m| risks(m, a.exhibits.serving.as_ref())).collect(),
            exhibits: &a.exhibits,
            wire: a.exhibits.serving.as_ref().map(|s| Wire { request: dump(&s.seen_request), answer: dump(&s.seen_answer) }),
            method: method(a),
            portability: a.models.iter().filter_map(portability).collect(),
            definitions: FIGURES,
            schema: super::SCHEMA,
        }
    }
}

fn headline(a: &Assessment) -> String {
    let reference = a.reference().map_or("", |r| &r.name);
    let (total, plural) = (a.variants().len(), if a.variants().len() == 1 { "variant" } else { "variants" });
    match a.policy {
        None => format!("{total} {plural} of {reference}, measured"),
        Some(_) => {
            let accepted = a.variants().iter().filter(|v| v.verdict.as_ref().is_some_and(Verdict::accepted)).count();
            let count = if accepted == 0 { "None".to_owned() } else { accepted.to_string() };
            let verb = if accepted == 1 { "is" } else { "are" };
            format!("{count} of {total} {plural} of {reference} {verb} accepted")
        }
    }
}

/// What matters most, a sentence each.
fn lede(a: &Assessment) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(best) = a.smallest_accepted() {
        let say = |id: &str| Figure::find(id).and_then(|f| Some(format::with_unit(f.read(&best.measured)?.value, f.unit)));
        let size = say("bytes").unwrap_or_default();
        let bits = say("bits_per_weight").unwrap_or_default();
        let kl = say("kl_mean").unwrap_or_default();
        let top = say("same_top").unwrap_or_default();
        lines.push(format!(
            "The smallest accepted is {}: {size}, {bits} a weight, {kl} of mean divergence, the same most likely token at {top} of positions.",
            best.name
        ));
    }
    let checked: Vec<_> = a.models.iter().filter_map(|m| Some((m, m.measured.portability.as_ref()?))).collect();
    let moved: Vec<_> = checked.iter().filter(|(_, p)| !p.equal()).map(|(m, _)| m.name.as_str()).collect();
    if let Some((_, first)) = checked.first() {
        lines.push(match moved.as_slice() {
            [] => format!("Every model gave the same bits in all {} ways of running it on this machine.", first.runs.len()),
            some => format!("Not the same bits in every way of running: {}.", some.join(", ")),
        });
    }
    lines
}

fn row<'a>(m: &'a Assessed, columns: &[&'static Figure]) -> Row<'a> {
    let fails = |id: &str| m.verdict.as_ref().is_some_and(|v| v.reasons.iter().any(|r| r.limit.figure == id));
    let cell = |f: &&'static Figure| {
        let (value, error) = format::parts(f.read(&m.measured)?, f.unit);
        Some(Cell { value, error, failing: fails(f.id) })
    };
    Row { name: &m.name, made: &m.made, on_front: m.on_front, decision: decision(m), cells: columns.iter().map(cell).collect() }
}

fn decision(m: &Assessed) -> Decision {
    match &m.verdict {
        None => Decision { class: "unjudged", word: "", reasons: Vec::new() },
        Some(v) if v.accepted() => Decision { class: "accepted", word: "accepted", reasons: Vec::new() },
        Some(v) => Decision { class: "refused", word: "refused", reasons: v.reasons.iter().map(reason).collect() },
    }
}

fn reason(r: &Reason) -> String {
    let Some(figure) = Figure::find(r.limit.figure) else { return r.limit.key.to_owned() };
    match r.value {
        None => format!("{} was not measured; the policy wants {}", figure.name, demand(&r.limit)),
        Some(value) => {
            format!("{} is {}; the policy wants {}", figure.name, format::with_unit(value, figure.unit), demand(&r.limit))
        }
    }
}

fn demand(limit: &Limit) -> String {
    let unit = Figure::find(limit.figure).map_or("", |f| f.unit);
    format!("{} {}", limit.bound.relation(), format::as_written(limit.bound.limit(), unit))
}

fn limits(a: &Assessment) -> Vec<LimitRow> {
    let refuses = |limit: &Limit| -> String {
        let by = |v: &&Assessed| v.verdict.as_ref().is_some_and(|v| v.reasons.iter().any(|r| r.limit == *limit));
        let names: Vec<_> = a.variants().iter().filter(by).map(|v| v.name.as_str()).collect();
        if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
    };
    let limit = |l: &Limit| LimitRow {
        name: Figure::find(l.figure).map_or(l.key, |f| f.name),
        figure: l.figure,
        demand: demand(l),
        key: l.key,
        refuses: refuses(l),
    };
    a.policy.iter().flat_map(|p| p.limits()).map(limit).collect()
}

fn risks<'a>(m: &'a Assessed, serving: Option<&Serving>) -> ModelRisks<'a> {
    let card = |risk| {
        let read = |f: &Figure| Some((f.name.to_owned(), format::reading(f.read(&m.measured)?, f.unit)));
        let mut figures: Vec<_> = FIGURES.iter().filter(|f| f.risk == risk).filter_map(read).collect();
        let mut note = None;
        if risk == Risk::Privacy {
            if let Some(s) = serving.filter(|s| s.variant == m.name) {
                let value = format!("{} of {} sent", format::bytes(s.readable_bytes as f64), format::bytes(s.wire_bytes as f64));
                figures.push(("Prompt and answer readable on the wire".to_owned(), value));
            }
            note = Some("Not measured: how much of its training text the model gives back.");
        }
        RiskCard { risk, figures, note }
    };
    let share = |(name, bytes): &(String, u64)| format!("{name} {}", format::bytes(*bytes as f64));
    ModelRisks {
        name: &m.name,
        made: &m.made,
        digest: m.weights.to_string(),
        types: m.types.iter().map(share).collect::<Vec<_>>().join(", "),
        decision: decision(m),
        risks: Risk::ALL.into_iter().map(card).collect(),
    }
}

fn portability(m: &Assessed) -> Option<PortabilityRow> {
    let p = m.measured.portability.as_ref()?;
    let mut isas: Vec<_> = p.runs.iter().map(|r| r.isa).collect();
    isas.dedup();
    let mut threads: Vec<_> = p.runs.iter().map(|r| r.threads).collect();
    threads.sort_unstable();
    threads.dedup();
    let threads = threads.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    let result = if p.equal() {
        p.runs.first().map(|r| r.digest.to_string()).unwrap_or_default()
    } else {
        format!("{} different digests", p.distinct())
    };
    let ways = format!("{} runs: {} × {threads} threads; cut; batched", p.runs.len(), isas.join(", "));
    Some(PortabilityRow { name: m.name.clone(), ways, result })
}

fn method(a: &Assessment) -> Vec<(&'static str, String)> {
    let m = &a.method;
    let skipped = if m.skip > 0 { format!(", the first {} unscored", m.skip) } else { String::new() };
    let mut rows = vec![
        ("Software", format!("coffer {}, numeric contract {}, keys and values in {}", m.coffer, m.contract, m.kv_format)),
        ("Machine", m.machine.clone()),
        ("Instruction set, threads", format!("{}, {}", m.isa, m.threads)),
        ("Held-out text", format!("{}, sha256:{}", m.text, m.text_sha256)),
        ("Windows", format!("{} tokens in windows of {} without overlap{skipped}; {} scored", m.tokens, m.window, m.scored)),
    ];
    if let (Some(name), Some(digest)) = (&m.pairs, &m.pairs_sha256) {
        rows.push(("Minimal pairs", format!("{name}, sha256:{digest}")));
    }
    if let Some(r) = a.models.iter().find_map(|m| m.measured.resources.as_ref()) {
        let say =
            format!("{}, {} threads, prompt of {} tokens, {} tokens made", r.isa, r.threads, r.prefill_tokens, r.decode_tokens);
        rows.push(("Speed", say));
    }
    rows
}

/// Bytes as hexadecimal and, beside it, the printable ones among them; eight a line.
fn dump(bytes: &[u8]) -> Vec<String> {
    let line = |chunk: &[u8]| {
        let hex: String = chunk.iter().map(|b| format!("{b:02x} ")).collect();
        let text: String = chunk.iter().map(|&b| if b.is_ascii_graphic() { char::from(b) } else { '·' }).collect();
        format!("{hex:<24} {text}")
    };
    bytes.chunks(8).take(24).map(line).collect()
}
