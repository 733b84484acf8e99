//! How a text is cut before byte pairs are merged: GGUF names it (`tokenizer.ggml.pre`), `tokenizer.json` spells it out.
//! The names and their regular expressions are llama.cpp's (src/llama-vocab.cpp).

use super::{TokenizerError, invalid};
use serde_json::{Value, json};

/// The original GPT-2 expression, built into the `ByteLevel` step of `tokenizer.json`.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Letters with a case, as DeepSeek lists them.
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK_CJK: &str = r"[一-龥ࠀ-一가-퟿]+";

/// One kind of pre-tokenizer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PreType {
    /// Names in `tokenizer.ggml.pre`; the first is the one we write.
    names: &'static [&'static str],
    /// Cuts, one after the other.
    cuts: &'static [Cut],
    /// Whether a whole word that is in the vocabulary is taken without merging.
    pub(super) ignore_merges: bool,
    /// Whether BOS is added unless the file says otherwise.
    pub(super) add_bos: bool,
    /// Whether text is brought into Unicode's composed form first.
    pub(super) nfc: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Cut {
    /// Every match of the expression stands alone.
    Split(&'static str),
    /// Every digit stands alone.
    Digits,
    /// GPT-2's expression, in the step that maps bytes to characters.
    Gpt2,
}

use Cut::{Digits, Gpt2, Split};

const PLAIN: PreType = PreType { names: &[], cuts: &[], ignore_merges: false, add_bos: false, nfc: false };

/// The kinds that language models of the supported families use.
const PRE_TYPES: &[PreType] = &[
    PreType { names: &["gpt-2", "phi-2", "gigachat", "mellum", "olmo", "mpt", "trillion"], cuts: &[Gpt2], ..PLAIN },
    PreType { names: &["smollm", "starcoder", "refact", "codeshell", "minerva-7b"], cuts: &[Digits, Gpt2], ..PLAIN },
    PreType {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"],
        cuts: &[Split(LLAMA3)],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    PreType { names: &["smaug-bpe", "dbrx"], cuts: &[Split(LLAMA3)], ..PLAIN },
    PreType { names: &["qwen2"], cuts: &[Split(QWEN2)], nfc: true, ..PLAIN },
    PreType { names: &["deepseek-r1-qwen", "megrez"], cuts: &[Split(QWEN2)], ..PLAIN },
    PreType { names: &["tekken"], cuts: &[Split(TEKKEN)], ignore_merges: true, add_bos: true, ..PLAIN },
    PreType {
        names: &["deepseek-llm"],
        cuts: &[
            Split(r"[\r\n]"),
            Split(DEEPSEEK_LETTERS),
            Split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            Split(r"\s+$"),
            Split(DEEPSEEK_CJK),
            Split(r"\p{N}+"),
        ],
        ..PLAIN
    },
    PreType {
        names: &["deepseek-coder"],
        cuts: &[Split(r"[\r\n]"), Split(r"\s?\p{L}+"), Split(r"\s?\p{P}+"), Split(DEEPSEEK_CJK), Digits],
        ..PLAIN
    },
    PreType {
        names: &["default"],
        cuts: &[Split(r"[\p{P}\$\+<=>\^~\|]+"), Split(GPT2), Split(r"\p{N}+"), Split("[0-9][0-9][0-9]")],
        ..PLAIN
    },
];

impl PreType {
    /// The kind that GGUF calls `name`.
    pub(super) fn named(name: &str) -> Result<&'static Self, TokenizerError> {
        PRE_TYPES.iter().find(|p| p.names.contains(&name)).ok_or_else(|| {
            let known: Vec<&str> = PRE_TYPES.iter().flat_map(|p| p.names).copied().collect();
            let shown: String = name.chars().take(60).collect();
            invalid(format!("tokenizer.ggml.pre is `{shown}`, which is not supported; supported: {}", known.join(", ")))
        })
    }

    /// The kind that does what a `tokenizer.json` spells out.
    pub(super) fn of(fields: &Value) -> Result<&'static Self, TokenizerError> {
        let ignore_merges = fields["model"]["ignore_merges"].as_bool().unwrap_or(false);
        let nfc = match fields["normalizer"]["type"].as_str() {
            None => false,
            Some("NFC") => true,
            Some(other) => return Err(invalid(format!("normalizer `{other}` has no counterpart in GGUF"))),
        };
        let steps = steps(&fields["pre_tokenizer"]);
        PRE_TYPES
            .iter()
            .find(|p| p.ignore_merges == ignore_merges && p.nfc == nfc && steps.as_ref() == Some(&spelled(p.cuts)))
            .ok_or_else(|| {
                let shown: String = fields["pre_tokenizer"].to_string().chars().take(200).collect();
                invalid(format!("pre_tokenizer has no counterpart among GGUF's pre-types: {shown}"))
            })
    }

    /// The name we write into `tokenizer.ggml.pre`.
    pub(super) fn name(&self) -> &'static str {
        self.names[0]
    }

    /// `pre_tokenizer` and `normalizer` of a `tokenizer.json`.
    pub(super) fn to_json(&self) -> (Value, Value) {
        let last = json!({
            "type": "ByteLevel",
            "add_prefix_space": false,
            "trim_offsets": true,
            "use_regex": self.cuts.ends_with(&[Gpt2]),
        });
        let mut steps: Vec<Value> = self.cuts.iter().filter_map(Cut::to_json).collect();
        let pre_tokenizer = match steps.is_empty() {
            true => last,
            false => {
                steps.push(last);
                json!({"type": "Sequence", "pretokenizers": steps})
            }
        };
        (pre_tokenizer, if self.nfc { json!({"type": "NFC"}) } else { Value::Null })
    }
}

impl Cut {
    fn to_json(&self) -> Option<Value> {
        match self {
            Split(regex) => Some(json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})),
            Digits => Some(json!({"type": "Digits", "individual_digits": true})),
            Gpt2 => None,
        }
    }

    /// Two cuts that do the same have the same spelling.
    fn spelling(&self) -> &'static str {
        match self {
            Split(regex) => regex,
            Digits => r"\p{N}",
            Gpt2 => GPT2,
        }
    }
}

fn spelled(cuts: &[Cut]) -> Vec<String> {
    cuts.iter().map(|c| c.spelling().to_owned()).collect()
}

/// The expressions of a `pre_tokenizer`, one after the other; `None` if it does anything else.
fn steps(pre_tokenizer: &Value) -> Option<Vec<String>> {
    let list = pre_tokenizer["pretokenizers"].as_array().map_or(std::slice::from_ref(pre_tokenizer), Vec::as_slice);
    let (last, cuts) = list.split_last()?;
    let byte_level = last["type"] == "ByteLevel" && last["add_prefix_space"] == false;
    let mut spelled: Vec<String> = cuts.iter().map(cut).collect::<Option<_>>().filter(|_| byte_level)?;
    // Files from before the switch existed always use the expression.
    if last["use_regex"].as_bool().unwrap_or(true) {
        spelled.push(GPT2.to_owned());
    }
    Some(spelled)
}

fn cut(step: &Value) -> Option<String> {
    let isolated = step["behavior"] == "Isolated" && step["invert"].as_bool() != Some(true);
    match step["type"].as_str()? {
        "Split" if isolated => step["pattern"]["Regex"].as_str().map(str::to_owned),
        "Digits" if step["individual_digits"] == true => Some(Digits.spelling().to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_again_in_its_own_json() {
        for kind in PRE_TYPES {
            let (pre_tokenizer, normalizer) = kind.to_json();
            let model = json!({"ignore_merges": kind.ignore_merges});
            let fields = json!({"pre_tokenizer": pre_tokenizer, "normalizer": normalizer, "model": model});
            assert_eq!(PreType::of(&fields).unwrap(), kind);
            kind.names.iter().for_each(|name| assert_eq!(PreType::named(name).unwrap(), kind));
        }
    }

    #[test]
    fn other_cuts_are_refused() {
        assert!(PreType::named("bloom").unwrap_err().to_string().contains("`bloom`"));
        for pre_tokenizer in [json!(null), json!({"type": "Whitespace"}), json!({"type": "ByteLevel", "add_prefix_space": true})]
        {
            assert!(PreType::of(&json!({"pre_tokenizer": pre_tokenizer})).is_err());
        }
    }
}
