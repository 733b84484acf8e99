//! `report.json`: an explicit layout, so that it does not change when types inside do.

use crate::{
    Assessment, Verdict,
    assessment::{Assessed, Method},
    exhibits::{RefusedFile, Sealing, Serving},
    figures::{FIGURES, Measured},
    pareto,
    policy::{Limit, Policy, Reason},
    portability::Run,
};
use serde::Serialize;
use std::collections::BTreeMap;

pub(super) fn write(assessment: &Assessment) -> String {
    let report = Report {
        schema: super::SCHEMA,
        method: &assessment.method,
        reference: assessment.reference().map(|r| r.name.as_str()),
        models: assessment.models.iter().map(Model::of).collect(),
        policy: assessment.policy.as_ref().map(limits),
        pareto_front: pareto::DEFINITION,
        exhibits: ExhibitsView {
            refused_file: assessment.exhibits.refused_file.as_ref(),
            sealing: assessment.exhibits.sealing.as_ref(),
            serving: assessment.exhibits.serving.as_ref(),
        },
        definitions: FIGURES
            .iter()
            .map(|f| {
                (
                    f.id,
                    Definition {
                        name: f.name,
                        unit: f.unit,
                        better: f.better.name(),
                        risk: f.risk.name(),
                        definition: f.definition,
                    },
                )
            })
            .collect(),
    };
    // Maps with text keys and finite or null numbers: nothing here can fail to be written.
    serde_json::to_string_pretty(&report).unwrap_or_default()
}

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    method: &'a Method,
    reference: Option<&'a str>,
    models: Vec<Model<'a>>,
    policy: Option<Vec<LimitView>>,
    pareto_front: &'static str,
    exhibits: ExhibitsView<'a>,
    definitions: BTreeMap<&'static str, Definition>,
}

#[derive(Serialize)]
struct Model<'a> {
    name: &'a str,
    made: &'a str,
    weights_digest: String,
    types: Vec<TypeView<'a>>,
    figures: BTreeMap<&'static str, FigureView>,
    portability: Option<PortabilityView<'a>>,
    on_pareto_front: bool,
    verdict: Option<VerdictView>,
}

#[derive(Serialize)]
struct TypeView<'a> {
    r#type: &'a str,
    bytes: u64,
}

#[derive(Serialize)]
struct FigureView {
    value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    standard_error: Option<f64>,
    unit: &'static str,
}

#[derive(Serialize)]
struct PortabilityView<'a> {
    equal: bool,
    tokens: usize,
    contract: &'a str,
    runs: &'a [Run],
}

#[derive(Serialize)]
struct VerdictView {
    accepted: bool,
    reasons: Vec<ReasonView>,
}

#[derive(Serialize)]
struct ReasonView {
    #[serde(flatten)]
    limit: LimitView,
    value: Option<f64>,
}

#[derive(Serialize)]
struct LimitView {
    key: &'static str,
    figure: &'static str,
    relation: &'static str,
    limit: f64,
    unit: &'static str,
}

#[derive(Serialize)]
struct ExhibitsView<'a> {
    refused_file: Option<&'a RefusedFile>,
    sealing: Option<&'a Sealing>,
    serving: Option<&'a Serving>,
}

#[derive(Serialize)]
struct Definition {
    name: &'static str,
    unit: &'static str,
    better: &'static str,
    risk: &'static str,
    definition: &'static str,
}

impl<'a> Model<'a> {
    fn of(m: &'a Assessed) -> Self {
        Self {
            name: &m.name,
            made: &m.made,
            weights_digest: m.weights.to_string(),
            types: m.types.iter().map(|(name, bytes)| TypeView { r#type: name, bytes: *bytes }).collect(),
            figures: figures(&m.measured),
            portability: m.measured.portability.as_ref().map(|p| PortabilityView {
                equal: p.equal(),
                tokens: p.tokens,
                contract: &p.contract,
                runs: &p.runs,
            }),
            on_pareto_front: m.on_front,
            verdict: m.verdict.as_ref().map(verdict),
        }
    }
}

fn figures(measured: &Measured) -> BTreeMap<&'static str, FigureView> {
    let view = |f: &'static crate::figures::Figure| {
        let r = f.read(measured)?;
        Some((f.id, FigureView { value: r.value, standard_error: r.standard_error, unit: f.unit }))
    };
    FIGURES.iter().filter_map(view).collect()
}

fn verdict(v: &Verdict) -> VerdictView {
    let reason = |r: &Reason| ReasonView { limit: limit(&r.limit), value: r.value };
    VerdictView { accepted: v.accepted(), reasons: v.reasons.iter().map(reason).collect() }
}

fn limits(policy: &Policy) -> Vec<LimitView> {
    policy.limits().iter().map(limit).collect()
}

fn limit(l: &Limit) -> LimitView {
    LimitView {
        key: l.key,
        figure: l.figure,
        relation: l.bound.relation(),
        limit: l.bound.limit(),
        unit: crate::figures::Figure::find(l.figure).map_or("", |f| f.unit),
    }
}
