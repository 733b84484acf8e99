//! Every figure that an assessment reports: its name, unit, direction, definition, and where it comes from.
//! Policy, report and docs/measures.md all speak of figures through this one table.

use crate::{fidelity::Fidelity, pairs::Pairs, portability::Portability, resources::Resources};

/// What was measured on one variant; parts that were not measured are `None` and their figures are absent.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Bytes and weights as stored.
    pub size: Option<Size>,
    /// Perplexity, and divergence from the reference.
    pub fidelity: Option<Fidelity>,
    /// Minimal pairs.
    pub pairs: Option<Pairs>,
    /// Speed and memory, measured in a process of its own.
    pub resources: Option<Resources>,
    /// Bits across instruction sets, threads, batches and cuts.
    pub portability: Option<Portability>,
    /// What the scanner found.
    pub scan: Option<Scan>,
}

/// Size of a model as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Bytes of all weights.
    pub bytes: u64,
    /// Number of weights.
    pub parameters: u64,
    /// Whether the weights lie in a sealed bundle.
    pub sealed: bool,
}

/// Findings of a scan, counted by severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Files that were looked at.
    pub files: u64,
    /// Findings graded unsafe.
    pub unsafe_findings: u64,
    /// Findings graded warning.
    pub warnings: u64,
}

impl From<&coffer_scan::Report> for Scan {
    fn from(report: &coffer_scan::Report) -> Self {
        let count = |severity| report.findings.iter().filter(|f| f.severity == severity).count() as u64;
        Self {
            files: report.files,
            unsafe_findings: count(coffer_scan::Severity::Unsafe),
            warnings: count(coffer_scan::Severity::Warning),
        }
    }
}

/// A measured value with its standard error where sampling leaves one.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Reading {
    /// Value in the figure's unit.
    pub value: f64,
    /// Standard error in the same unit.
    pub standard_error: Option<f64>,
}

/// The four risks that Coffer measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Risk {
    /// Who can read, change or replace the model.
    Safety,
    /// Who can read training data and prompts.
    Privacy,
    /// Does it answer the same after it was compressed or moved.
    Reliability,
    /// Size, speed, memory.
    Efficiency,
}

impl Risk {
    /// All four in the order of the report.
    pub const ALL: [Risk; 4] = [Risk::Safety, Risk::Privacy, Risk::Reliability, Risk::Efficiency];

    /// `Safety` …
    pub fn name(self) -> &'static str {
        match self {
            Risk::Safety => "Safety",
            Risk::Privacy => "Privacy",
            Risk::Reliability => "Reliability",
            Risk::Efficiency => "Efficiency",
        }
    }
    /// The question behind the risk.
    pub fn question(self) -> &'static str {
        match self {
            Risk::Safety => "Who can read, change or replace the model?",
            Risk::Privacy => "Who can read the training data and the prompts?",
            Risk::Reliability => "Does it answer as the reference does, on every machine?",
            Risk::Efficiency => "How large, how fast, how much memory?",
        }
    }
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Smaller values.
    Lower,
    /// Larger values.
    Higher,
}

impl Better {
    /// `lower` or `higher`.
    pub fn name(self) -> &'static str {
        match self {
            Better::Lower => "lower",
            Better::Higher => "higher",
        }
    }
}

/// One figure.
pub struct Figure {
    /// Stable identifier in `report.json`.
    pub id: &'static str,
    /// Name for people.
    pub name: &'static str,
    /// Unit of the value.
    pub unit: &'static str,
    /// Which way is better.
    pub better: Better,
    /// The risk it speaks to.
    pub risk: Risk,
    /// What exactly is measured.
    pub definition: &'static str,
    read: fn(&Measured) -> Option<Reading>,
}

impl Figure {
    /// The figure called `id`.
    pub fn find(id: &str) -> Option<&'static Figure> {
        FIGURES.iter().find(|f| f.id == id)
    }
    /// Its value for one variant; `None` if that was not measured.
    pub fn read(&self, measured: &Measured) -> Option<Reading> {
        (self.read)(measured)
    }
}

fn exact(value: f64) -> Option<Reading> {
    Some(Reading { value, standard_error: None })
}

fn of_size(m: &Measured, f: fn(&Size) -> f64) -> Option<Reading> {
    m.size.as_ref().and_then(|s| exact(f(s)))
}

fn of_pairs(m: &Measured, f: fn(&Pairs) -> Option<f64>) -> Option<Reading> {
    m.pairs.as_ref().and_then(f).and_then(exact)
}

fn of_resources(m: &Measured, f: fn(&Resources) -> Option<f64>) -> Option<Reading> {
    m.resources.as_ref().and_then(f).and_then(exact)
}

/// All figures in the order of the report.
pub static FIGURES: &[Figure] = &[
    Figure {
        id: "scan_findings",
        name: "Scanner findings",
        unit: "findings",
        better: Better::Lower,
        risk: Risk::Safety,
        definition: "Findings of `coffer scan` over the variant's files that are graded unsafe (loading the file can run code or \
                     corrupt memory) or warning (the file could not be judged).",
        read: |m| m.scan.and_then(|s| exact((s.unsafe_findings + s.warnings) as f64)),
    },
    Figure {
        id: "plaintext_bytes",
        name: "Weights readable without a key",
        unit: "bytes",
        better: Better::Lower,
        risk: Risk::Safety,
        definition: "Bytes of weights that whoever can read the files can read: all of them for a plain model, none for a \
                     sealed bundle.",
        read: |m| of_size(m, |s| if s.sealed { 0.0 } else { s.bytes as f64 }),
    },
    Figure {
        id: "perplexity",
        name: "Perplexity",
        unit: "",
        better: Better::Lower,
        risk: Risk::Reliability,
        definition: "exp of the mean negative log probability (natural logarithm) of each token given those before it in its \
                     window. The standard error follows from that of the mean, tokens taken as independent.",
        read: |m| m.fidelity.as_ref().map(|f| f.perplexity),
    },
    Figure {
        id: "perplexity_ratio",
        name: "Perplexity ratio",
        unit: "× reference",
        better: Better::Lower,
        risk: Risk::Reliability,
        definition: "The variant's perplexity divided by the reference's on the same tokens. The standard error comes from the \
                     differences token by token, so it is far smaller than that of either perplexity.",
        read: |m| m.fidelity.as_ref()?.divergence.as_ref().map(|d| d.perplexity_ratio),
    },
    Figure {
        id: "kl_mean",
        name: "KL divergence, mean",
        unit: "nats",
        better: Better::Lower,
        risk: Risk::Reliability,
        definition: "Mean over all scored positions of KL(reference ‖ variant) = Σ p·(ln p − ln q) over the whole vocabulary, p \
                     the reference's probabilities of the next token and q the variant's. 0: the same distribution everywhere.",
        read: |m| m.fidelity.as_ref()?.divergence.as_ref().map(|d| d.kl_mean),
    },
    Figure {
        id: "kl_p99",
        name: "KL divergence, 99th percentile",
        unit: "nats",
        better: Better::Lower,
        risk: Risk::Reliability,
        definition: "The smallest value that at least 99 % of the positions' KL divergences do not exceed (nearest rank): how \
                     far the variant strays where it strays most.",
        read: |m| m.fidelity.as_ref()?.divergence.as_ref().and_then(|d| exact(d.kl_p99)),
    },
    Figure {
        id: "same_top",
        name: "Same top token",
        unit: "share",
        better: Better::Higher,
        risk: Risk::Reliability,
        definition: "Share of scored positions at which reference and variant find the same token most likely; ties go to the \
                     lowest id.",
        read: |m| m.fidelity.as_ref()?.divergence.as_ref().map(|d| d.same_top),
    },
    Figure {
        id: "pairs_right",
        name: "Minimal pairs right",
        unit: "share",
        better: Better::Higher,
        risk: Risk::Reliability,
        definition: "Share of minimal pairs in which the grammatical sentence has the larger log probability, summed over its \
                     tokens after the model's start token. A tie counts as wrong.",
        read: |m| of_pairs(m, |p| Some(p.accuracy())),
    },
    Figure {
        id: "flips",
        name: "Right answers lost",
        unit: "pairs",
        better: Better::Lower,
        risk: Risk::Reliability,
        definition: "Minimal pairs that the reference gets right and the variant gets wrong.",
        read: |m| of_pairs(m, |p| p.lost.map(|n| n as f64)),
    },
    Figure {
        id: "flips_gained",
        name: "Right answers gained",
        unit: "pairs",
        better: Better::Higher,
        risk: Risk::Reliability,
        definition: "Minimal pairs that the reference gets wrong and the variant gets right: together with the lost ones, how \
                     many answers changed.",
        read: |m| of_pairs(m, |p| p.gained.map(|n| n as f64)),
    },
    Figure {
        id: "distinct_logits",
        name: "Distinct results",
        unit: "results",
        better: Better::Lower,
        risk: Risk::Reliability,
        definition: "Number of different SHA-256 digests of the same sequence's logits over every instruction set that this \
                     machine runs, each thread count, alone and in a batch, the prompt in one piece and cut. 1: the same bits \
                     every way.",
        read: |m| m.portability.as_ref().and_then(|p| exact(p.distinct() as f64)),
    },
    Figure {
        id: "bytes",
        name: "Size",
        unit: "bytes",
        better: Better::Lower,
        risk: Risk::Efficiency,
        definition: "Bytes of all weights as stored, without tokenizer and headers.",
        read: |m| of_size(m, |s| s.bytes as f64),
    },
    Figure {
        id: "bits_per_weight",
        name: "Bits per weight",
        unit: "bits",
        better: Better::Lower,
        risk: Risk::Efficiency,
        definition: "Eight times the size, divided by the number of weights.",
        read: |m| m.size.filter(|s| s.parameters > 0).and_then(|s| exact(s.bytes as f64 * 8.0 / s.parameters as f64)),
    },
    Figure {
        id: "load_seconds",
        name: "Load time",
        unit: "seconds",
        better: Better::Lower,
        risk: Risk::Efficiency,
        definition: "Wall-clock time to read and pack the weights, the operating system's file cache as it is.",
        read: |m| of_resources(m, |r| Some(r.load_seconds)),
    },
    Figure {
        id: "prefill_tokens_per_second",
        name: "Prefill speed",
        unit: "tokens/s",
        better: Better::Higher,
        risk: Risk::Efficiency,
        definition: "Prompt tokens a second when one prompt is read into an empty cache; the fastest of the runs.",
        read: |m| of_resources(m, |r| Some(r.prefill_tokens_per_second)),
    },
    Figure {
        id: "decode_tokens_per_second",
        name: "Decode speed",
        unit: "tokens/s",
        better: Better::Higher,
        risk: Risk::Efficiency,
        definition: "Tokens a second when one sequence is continued token by token after that prompt; the fastest of the runs.",
        read: |m| of_resources(m, |r| Some(r.decode_tokens_per_second)),
    },
    Figure {
        id: "peak_memory",
        name: "Peak memory",
        unit: "bytes",
        better: Better::Lower,
        risk: Risk::Efficiency,
        definition: "The largest resident set (VmHWM) of a fresh process that loads the model and runs the speed measurement. \
                     Linux only.",
        read: |m| of_resources(m, |r| r.peak_memory.map(|b| b as f64)),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_unique() {
        for (i, f) in FIGURES.iter().enumerate() {
            assert!(FIGURES[..i].iter().all(|g| g.id != f.id), "{} occurs twice", f.id);
            assert!(std::ptr::eq(Figure::find(f.id).unwrap(), f));
        }
    }

    #[test]
    fn what_was_not_measured_has_no_figures() {
        assert!(FIGURES.iter().all(|f| f.read(&Measured::default()).is_none()));
    }

    #[test]
    fn sealed_weights_are_not_readable() {
        let mut m = Measured { size: Some(Size { bytes: 10, parameters: 5, sealed: false }), ..Measured::default() };
        let readable = Figure::find("plaintext_bytes").unwrap();
        assert_eq!(readable.read(&m).unwrap().value, 10.0);
        m.size.as_mut().unwrap().sealed = true;
        assert_eq!(readable.read(&m).unwrap().value, 0.0);
        assert_eq!(Figure::find("bits_per_weight").unwrap().read(&m).unwrap().value, 16.0);
    }
}
