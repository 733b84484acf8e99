//! Values of recipe parameters: a number, a gradient over the layers, or a list of values by filter.

use serde_norway::Value;

/// A parameter as a recipe writes it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Setting {
    /// One number; `true` and `false` are 1 and 0.
    Scalar(f64),
    /// Spread evenly over the layers, straight lines between.
    Gradient(Vec<f64>),
    /// The first filter that the tensor's name contains decides; `None` matches every name.
    Filters(Vec<(Option<String>, Setting)>),
}

impl Setting {
    /// Reads a value; the error says what is wrong with it.
    pub(super) fn parse(value: &Value) -> Result<Self, String> {
        match value {
            Value::Sequence(items) if !items.is_empty() && items.iter().all(|i| scalar(i).is_some()) => {
                Ok(Self::Gradient(items.iter().filter_map(scalar).collect()))
            }
            Value::Sequence(items) => items.iter().map(parse_filter).collect::<Result<_, _>>().map(Self::Filters),
            Value::Mapping(_) => Ok(Self::Filters(vec![parse_filter(value)?])),
            _ => scalar(value)
                .map(Self::Scalar)
                .ok_or_else(|| "it must be a number, a list of numbers, or a list of filters".into()),
        }
    }

    /// The value for a tensor at position `t` among the layers, 0 to 1; `None` if no filter matches.
    pub(super) fn evaluate(&self, tensor: &str, t: f64) -> Option<f64> {
        match self {
            Self::Scalar(v) => Some(*v),
            Self::Gradient(values) => {
                let at = t * (values.len() - 1) as f64;
                let (left, part) = (at as usize, at - at.trunc());
                let right = (left + 1).min(values.len() - 1);
                Some((1.0 - part) * values.get(left)? + part * values.get(right)?)
            }
            Self::Filters(list) => {
                let matches = |f: &Option<String>| f.as_ref().is_none_or(|f| tensor.contains(f.as_str()));
                list.iter().find(|(f, _)| matches(f)).and_then(|(_, setting)| setting.evaluate(tensor, t))
            }
        }
    }
}

fn parse_filter(item: &Value) -> Result<(Option<String>, Setting), String> {
    let map = item.as_mapping().ok_or("its list mixes numbers with something else")?;
    if let Some((key, _)) = map.iter().find(|(k, _)| !matches!(k.as_str(), Some("filter" | "value"))) {
        return Err(format!("{} is not a key of a filter; supported: filter, value", super::recipe::text_of(key)));
    }
    let filter = match map.get("filter") {
        None | Some(Value::Null) => None,
        Some(Value::String(s)) => Some(s.clone()).filter(|s| s != "*"),
        Some(other) => return Err(format!("filter {} is no text", super::recipe::text_of(other))),
    };
    let value = map.get("value").ok_or("a filter has no value")?;
    if value.is_mapping() || value.as_sequence().is_some_and(|s| s.iter().any(Value::is_mapping)) {
        return Err("filters inside filters are not supported".into());
    }
    Ok((filter, Setting::parse(value)?))
}

fn scalar(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Bool(b) => Some(f64::from(u8::from(*b))),
        Value::Number(n) => n.as_f64(),
        Value::String(s) => s.parse().ok(),
        _ => None,
    };
    number.filter(|n| n.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(yaml: &str) -> Result<Setting, String> {
        Setting::parse(&serde_norway::from_str(yaml).unwrap())
    }

    #[test]
    fn scalars_gradients_and_filters_evaluate_as_documented() {
        let at = |yaml: &str, name: &str, t: f64| setting(yaml).unwrap().evaluate(name, t);
        assert_eq!(at("0.25", "x", 0.5), Some(0.25));
        assert_eq!(at("1e-3", "x", 0.5), Some(0.001));
        assert_eq!(at("true", "x", 0.5), Some(1.0));
        assert_eq!(at("[0, 1]", "x", 0.25), Some(0.25));
        assert_eq!(at("[0, 1, 0]", "x", 1.0), Some(0.0));
        assert_eq!(at("[0, 1, 0]", "x", 0.5), Some(1.0));
        assert_eq!(at("[7]", "x", 0.5), Some(7.0));
        let filters = "[{filter: mlp, value: [0, 2]}, {filter: self_attn, value: 3}]";
        assert_eq!(at(filters, "model.layers.0.mlp.up_proj.weight", 0.5), Some(1.0));
        assert_eq!(at(filters, "model.layers.0.self_attn.q_proj.weight", 0.5), Some(3.0));
        assert_eq!(at(filters, "model.norm.weight", 0.5), None);
        assert_eq!(at("[{filter: mlp, value: 1}, {value: 4}]", "model.norm.weight", 0.5), Some(4.0));
        assert_eq!(at("[{filter: '*', value: 4}]", "model.norm.weight", 0.5), Some(4.0));
    }

    #[test]
    fn other_values_are_refused() {
        for (yaml, why) in [
            ("null", "must be a number"),
            ("fast", "must be a number"),
            (".nan", "must be a number"),
            ("[1, {value: 2}]", "mixes"),
            ("[{filter: mlp}]", "no value"),
            ("[{filter: 3, value: 1}]", "no text"),
            ("[{filters: mlp, value: 1}]", "filters is not a key"),
            ("[{value: [{value: 1}]}]", "inside"),
        ] {
            let error = setting(yaml).unwrap_err();
            assert!(error.contains(why), "{yaml}: {error}");
        }
    }
}
