//! A policy: limits on measured figures, read from TOML. It accepts a variant or names every reason against it.

use crate::figures::{Figure, Measured};
use toml::de::{DeTable, DeValue};

/// Limits on figures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    limits: Vec<Limit>,
}

/// One limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// Key in the policy file, e.g. `max_kl_mean`.
    pub key: &'static str,
    /// Identifier of the figure that is limited.
    pub figure: &'static str,
    /// What the figure must satisfy.
    pub bound: Bound,
}

/// What a figure must satisfy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
    /// Exactly this.
    Exactly(f64),
}

impl Bound {
    /// Whether `value` satisfies the bound; not-a-number never does.
    pub fn admits(self, value: f64) -> bool {
        match self {
            Bound::AtMost(limit) => value <= limit,
            Bound::AtLeast(limit) => value >= limit,
            Bound::Exactly(limit) => value == limit,
        }
    }
    /// The number in the bound.
    pub fn limit(self) -> f64 {
        match self {
            Bound::AtMost(limit) | Bound::AtLeast(limit) | Bound::Exactly(limit) => limit,
        }
    }
    /// `at most`, `at least`, `exactly`.
    pub fn relation(self) -> &'static str {
        match self {
            Bound::AtMost(_) => "at most",
            Bound::AtLeast(_) => "at least",
            Bound::Exactly(_) => "exactly",
        }
    }
}

/// What a policy says about one variant.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The limits that are not met; none: accepted.
    pub reasons: Vec<Reason>,
}

impl Verdict {
    /// Whether every limit is met.
    pub fn accepted(&self) -> bool {
        self.reasons.is_empty()
    }
}

/// A limit that is not met.
#[derive(Clone, Debug, PartialEq)]
pub struct Reason {
    /// The limit.
    pub limit: Limit,
    /// The value; `None`: the figure was not measured, which no limit accepts.
    pub value: Option<f64>,
}

impl Policy {
    /// Reads a policy file. `file` names it in errors.
    ///
    /// # Errors
    /// The text is not TOML, a key is unknown, or a limit is of the wrong kind, negative, not finite, or above 1 for a share.
    pub fn parse(text: &str, file: &str) -> Result<Self, PolicyError> {
        let at = |offset: usize| Place { file: file.to_owned(), line: line_of(text, offset) };
        let table = DeTable::parse(text).map_err(|e| PolicyError::Syntax {
            at: at(e.span().map_or(text.len(), |s| s.start)),
            message: e.message().to_owned(),
        })?;
        let mut entries: Vec<_> = table.get_ref().iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut limits = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let at = at(key.span().start);
            let name = key.get_ref();
            let rule = RULES.iter().find(|r| r.key == name.as_ref()).ok_or_else(|| PolicyError::UnknownKey {
                at: at.clone(),
                key: name.to_string(),
                known: known_keys(),
            })?;
            limits.extend(rule.limit(value.get_ref(), at)?);
        }
        if limits.is_empty() {
            return Err(PolicyError::Empty { file: file.to_owned(), known: known_keys() });
        }
        Ok(Self { limits })
    }
    /// The limits of both.
    ///
    /// # Errors
    /// [`PolicyError::Twice`] if both set the same one.
    pub fn and(mut self, other: Self) -> Result<Self, PolicyError> {
        if let Some(twice) = other.limits.iter().find(|limit| self.limits.iter().any(|own| own.key == limit.key)) {
            return Err(PolicyError::Twice { key: twice.key });
        }
        self.limits.extend(other.limits);
        Ok(self)
    }
    /// The limits in the order of the file.
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }
    /// Judges what was measured.
    pub fn judge(&self, measured: &Measured) -> Verdict {
        let reason = |limit: &Limit| {
            let value = Figure::find(limit.figure).and_then(|f| f.read(measured)).map(|r| r.value);
            let met = value.is_some_and(|v| limit.bound.admits(v));
            (!met).then(|| Reason { limit: limit.clone(), value })
        };
        Verdict { reasons: self.limits.iter().filter_map(reason).collect() }
    }
}

/// The keys a policy may hold, each with the figure it limits, in the order of docs/measures.md.
pub fn keys() -> impl Iterator<Item = (&'static str, &'static str)> {
    RULES.iter().map(|r| (r.key, r.figure))
}

/// A place in a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// File.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Why a policy was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Not TOML.
    #[error("{at}: {message}")]
    Syntax {
        /// Where.
        at: Place,
        /// What the parser says.
        message: String,
    },
    /// No such limit.
    #[error("{at}: unknown key `{key}`; known: {known}")]
    UnknownKey {
        /// Where.
        at: Place,
        /// The key.
        key: String,
        /// The keys there are.
        known: String,
    },
    /// A value of another type than the key wants.
    #[error("{at}: `{key}` is of type {found}; want {want}")]
    Type {
        /// Where.
        at: Place,
        /// The key.
        key: &'static str,
        /// What stands there.
        found: &'static str,
        /// What should.
        want: &'static str,
    },
    /// A number that cannot be a limit on this figure.
    #[error("{at}: `{key}` = {value}: want {want}")]
    Range {
        /// Where.
        at: Place,
        /// The key.
        key: &'static str,
        /// The number as written.
        value: String,
        /// The numbers that can.
        want: &'static str,
    },
    /// Two policies that are to hold together limit the same.
    #[error("{key} is limited by a flag and by the policy; leave one out")]
    Twice {
        /// The key.
        key: &'static str,
    },
    /// No limit at all would accept everything.
    #[error("{file}: sets no limit, so it would accept everything; known: {known}")]
    Empty {
        /// File.
        file: String,
        /// The keys there are.
        known: String,
    },
}

/// How a key turns into a limit.
struct Rule {
    key: &'static str,
    figure: &'static str,
    kind: Kind,
}

enum Kind {
    Max,
    Min,
    /// `true` demands this value, `false` demands nothing.
    Require(f64),
}

const fn rule(key: &'static str, figure: &'static str, kind: Kind) -> Rule {
    Rule { key, figure, kind }
}

const RULES: &[Rule] = &[
    rule("require_scan_clean", "scan_findings", Kind::Require(0.0)),
    rule("require_sealed", "plaintext_bytes", Kind::Require(0.0)),
    rule("max_perplexity", "perplexity", Kind::Max),
    rule("max_perplexity_ratio", "perplexity_ratio", Kind::Max),
    rule("max_kl_mean", "kl_mean", Kind::Max),
    rule("max_kl_p99", "kl_p99", Kind::Max),
    rule("min_same_top", "same_top", Kind::Min),
    rule("min_pairs_right", "pairs_right", Kind::Min),
    rule("max_flips", "flips", Kind::Max),
    rule("require_same_bits", "distinct_logits", Kind::Require(1.0)),
    rule("max_bytes", "bytes", Kind::Max),
    rule("max_bits_per_weight", "bits_per_weight", Kind::Max),
    rule("max_load_seconds", "load_seconds", Kind::Max),
    rule("min_prefill_tokens_per_second", "prefill_tokens_per_second", Kind::Min),
    rule("min_decode_tokens_per_second", "decode_tokens_per_second", Kind::Min),
    rule("max_peak_memory", "peak_memory", Kind::Max),
];

impl Rule {
    fn limit(&self, value: &DeValue<'_>, at: Place) -> Result<Option<Limit>, PolicyError> {
        let bound = match self.kind {
            Kind::Max => Bound::AtMost(self.number(value, at)?),
            Kind::Min => Bound::AtLeast(self.number(value, at)?),
            Kind::Require(demanded) => {
                let wrong = || PolicyError::Type { at, key: self.key, found: value.type_str(), want: "`true` or `false`" };
                match value.as_bool().ok_or_else(wrong)? {
                    true => Bound::Exactly(demanded),
                    false => return Ok(None),
                }
            }
        };
        Ok(Some(Limit { key: self.key, figure: self.figure, bound }))
    }

    fn number(&self, value: &DeValue<'_>, at: Place) -> Result<f64, PolicyError> {
        let (text, number) = match value {
            DeValue::Integer(i) => (i.as_str(), i64::from_str_radix(i.as_str(), i.radix()).ok().map(|n| n as f64)),
            DeValue::Float(f) => (f.as_str(), f.as_str().parse::<f64>().ok()),
            other => return Err(PolicyError::Type { at, key: self.key, found: other.type_str(), want: "a number" }),
        };
        let share = Figure::find(self.figure).is_some_and(|f| f.unit == "share");
        let (most, want) = if share { (1.0, "a share from 0 to 1") } else { (f64::MAX, "a finite number, not negative") };
        number.filter(|n| (0.0..=most).contains(n)).ok_or_else(|| PolicyError::Range {
            at,
            key: self.key,
            value: text.to_owned(),
            want,
        })
    }
}

fn known_keys() -> String {
    RULES.iter().map(|r| r.key).collect::<Vec<_>>().join(", ")
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&b| b == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{FIGURES, Size};

    fn refused(text: &str) -> String {
        Policy::parse(text, "p.toml").unwrap_err().to_string()
    }

    fn sized(bytes: u64) -> Measured {
        Measured { size: Some(Size { bytes, parameters: 8, sealed: false }), ..Measured::default() }
    }

    #[test]
    fn every_key_limits_a_figure_in_its_better_direction() {
        for r in RULES {
            let figure = FIGURES.iter().find(|f| f.id == r.figure).expect(r.key);
            let max = matches!(figure.better, crate::figures::Better::Lower);
            assert!(matches!((&r.kind, max), (Kind::Max, true) | (Kind::Min, false) | (Kind::Require(_), true)), "{}", r.key);
        }
    }

    #[test]
    fn limits_keep_the_order_of_the_file() {
        let p = Policy::parse("min_same_top = 0.9\nmax_bytes = 8\nrequire_same_bits = true\n", "p.toml").unwrap();
        let keys: Vec<_> = p.limits().iter().map(|l| l.key).collect();
        assert_eq!(keys, ["min_same_top", "max_bytes", "require_same_bits"]);
        assert_eq!(p.limits()[2].bound, Bound::Exactly(1.0));
    }

    #[test]
    fn two_policies_hold_together_unless_they_limit_the_same() {
        let policy = |text: &str| Policy::parse(text, "p.toml").unwrap();
        let both = policy("max_bytes = 8").and(policy("max_kl_mean = 1\nmin_same_top = 0.5")).unwrap();
        assert_eq!(both, policy("max_bytes = 8\nmax_kl_mean = 1\nmin_same_top = 0.5"));
        let twice = both.and(policy("# max_bytes\nmax_kl_mean = 2")).unwrap_err();
        assert_eq!(twice, PolicyError::Twice { key: "max_kl_mean" });
    }

    #[test]
    fn a_verdict_gives_every_reason_with_its_number() {
        let p = Policy::parse("max_bytes = 8\nmax_bits_per_weight = 4\nmax_kl_mean = 1\n", "p.toml").unwrap();
        let v = p.judge(&sized(9));
        let got: Vec<_> = v.reasons.iter().map(|r| (r.limit.key, r.value)).collect();
        assert_eq!(got, [("max_bytes", Some(9.0)), ("max_bits_per_weight", Some(9.0)), ("max_kl_mean", None)]);
        assert!(!v.accepted());
        assert!(Policy::parse("max_bytes = 8", "p.toml").unwrap().judge(&sized(8)).accepted());
    }

    #[test]
    fn what_was_not_measured_is_not_accepted() {
        let p = Policy::parse("max_kl_mean = 1000", "p.toml").unwrap();
        assert_eq!(p.judge(&Measured::default()).reasons[0].value, None);
    }

    #[test]
    fn unknown_keys_are_refused_with_their_line() {
        let e = refused("max_bytes = 1\n# comment\nmax_kl = 1\n");
        assert!(e.starts_with("p.toml:3: unknown key `max_kl`; known: require_scan_clean, "), "{e}");
    }

    #[test]
    fn tables_and_text_are_refused() {
        assert_eq!(refused("\nmax_kl_mean = \"low\""), "p.toml:2: `max_kl_mean` is of type string; want a number");
        assert!(refused("[max_kl_mean]\nx = 1").contains("`max_kl_mean` is of type table; want a number"));
        assert_eq!(refused("require_same_bits = 1"), "p.toml:1: `require_same_bits` is of type integer; want `true` or `false`");
    }

    #[test]
    fn limits_that_cannot_be_are_refused() {
        assert_eq!(refused("max_kl_mean = -0.1"), "p.toml:1: `max_kl_mean` = -0.1: want a finite number, not negative");
        for value in ["nan", "inf", "-inf", "1e999", "-1"] {
            assert!(refused(&format!("max_bytes = {value}")).contains("want a finite number"), "{value}");
        }
        assert_eq!(refused("min_same_top = 95"), "p.toml:1: `min_same_top` = 95: want a share from 0 to 1");
        assert!(refused("max_bytes = 99999999999999999999").contains("max_bytes"));
    }

    #[test]
    fn broken_toml_is_refused_with_its_line() {
        assert!(refused("max_bytes = 1\nmax_kl_mean 3\n").starts_with("p.toml:2: "));
        assert!(refused("max_bytes = 1\nmax_bytes = 2\n").starts_with("p.toml:2: "));
    }

    #[test]
    fn a_policy_without_limits_is_refused() {
        assert!(refused("# nothing\n").contains("sets no limit"));
        assert!(refused("require_same_bits = false\n").contains("sets no limit"));
    }

    #[test]
    fn hexadecimal_and_underscores_are_numbers() {
        let limit = |t: &str| Policy::parse(t, "p").unwrap().limits()[0].bound;
        assert_eq!(limit("max_bytes = 0x10"), Bound::AtMost(16.0));
        assert_eq!(limit("max_bytes = 10_000"), Bound::AtMost(10_000.0));
    }
}
