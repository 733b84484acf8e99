//! JSON beside a model: configurations that name code, and chat templates. Read as a stream, nothing is kept.

use super::template;
use crate::{
    content::Item,
    rules::{CUSTOM_CODE, Findings, JSON_MALFORMED, KERAS_LAMBDA, LIMIT},
};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::{fmt, io};

const MAX_JSON: usize = 64 << 20;

pub(crate) fn scan(findings: &mut Findings, item: &Item<'_>) -> io::Result<()> {
    if item.source.len() > MAX_JSON as u64 {
        findings.add(&LIMIT, &item.name, None, format!("JSON of more than {MAX_JSON} bytes; it was not judged"));
        return Ok(());
    }
    let bytes = item.source.read_up_to(0, MAX_JSON)?;
    let mut json = serde_json::Deserializer::from_slice(&bytes);
    let parsed = Walk { findings, item, key: "" }.deserialize(&mut json).and_then(|()| json.end());
    if let Err(error) = parsed {
        findings.add(&JSON_MALFORMED, &item.name, None, format!("no valid JSON, so it was judged only up to there: {error}"));
    }
    Ok(())
}

/// Visits a value; `key` is the name it has in the object around it.
struct Walk<'a, 'b> {
    findings: &'a mut Findings,
    item: &'a Item<'b>,
    key: &'a str,
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if self.key == "class_name" && text == "Lambda" {
            let message = "a Keras Lambda layer, which holds Python bytecode that runs when the model is loaded";
            self.findings.add(&KERAS_LAMBDA, &self.item.name, None, message.to_owned());
        }
        // A vocabulary has pieces like "{{__"; only longer texts can be templates.
        if self.item.base_name() != "tokenizer.json" {
            template::scan(self.findings, self.item, None, text);
        }
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Walk { findings: self.findings, item: self.item, key: self.key })?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if matches!(key.as_str(), "auto_map" | "custom_pipelines") {
                let message = format!("{key:?} names Python code of the model's author; it runs if trust_remote_code is set");
                self.findings.add(&CUSTOM_CODE, &self.item.name, None, message);
            }
            map.next_value_seed(Walk { findings: self.findings, item: self.item, key: &key })?;
        }
        Ok(())
    }
}
