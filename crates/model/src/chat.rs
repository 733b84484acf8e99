//! Chat templates in Jinja, as `tokenizer_config.json` and GGUF carry them.
//!
//! They are code from strangers: rendering is bounded, and sees nothing but the conversation, the names of two tokens
//! and the clock.

use minijinja::{Environment, Error, ErrorKind, Value, context, syntax::SyntaxConfig, value::Kwargs};
use serde::Serialize;
use std::io;

/// Longest template in bytes.
const MAX_SOURCE: usize = 1 << 20;
/// Steps and 64-byte units of output that one rendering may spend: far above what 10,000 messages need.
const FUEL: u64 = 10_000_000;
/// Name of the only template.
const NAME: &str = "chat";

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Compiles `source`; `bos` and `eos` are the texts of those tokens. The dialect is that of transformers'
    /// `apply_chat_template`: blocks are trimmed, Python's methods on strings, lists and maps work.
    ///
    /// # Errors
    /// Returns [`TemplateError`] if the source is above 1 MiB or is not Jinja.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        if source.len() > MAX_SOURCE {
            return Err(TemplateError(format!("{} bytes are above the limit of {MAX_SOURCE}", source.len())));
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| TemplateError(describe(&e)))?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", clock::strftime_now);
        environment.add_template_owned(NAME, source.to_owned()).map_err(|e| TemplateError(describe(&e)))?;
        Ok(Self { environment, source: source.to_owned(), bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// Template text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation; `generate` opens the assistant's turn.
    ///
    /// # Errors
    /// Returns [`TemplateError`] if the template raises an exception, fails, or does not come to an end.
    pub fn render(&self, messages: &[Message], generate: bool) -> Result<String, TemplateError> {
        let message = |m: &Message| Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())]);
        let context = context! {
            messages => messages.iter().map(message).collect::<Vec<Value>>(),
            add_generation_prompt => generate,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
        };
        let template = self.environment.get_template(NAME).map_err(|e| TemplateError(describe(&e)))?;
        template.render(context).map_err(|e| TemplateError(describe(&e)))
    }
}

/// Why a template was refused.
#[derive(Debug, thiserror::Error)]
#[error("chat template: {0}")]
pub struct TemplateError(pub String);

fn describe(error: &Error) -> String {
    let line = error.line().map(|n| format!(" (line {n})")).unwrap_or_default();
    match error.kind() {
        ErrorKind::OutOfFuel => format!("does not come to an end within {FUEL} steps{line}"),
        kind => format!("{}{line}", error.detail().map_or_else(|| kind.to_string(), str::to_owned)),
    }
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Python's `json.dumps(x, ensure_ascii=False)`: unlike Jinja's own filter it does not escape HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    let written = match indent.map(|n| " ".repeat(n.min(16))) {
        Some(indent) => {
            let pretty = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, pretty))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced)),
    };
    let text = written.map_err(|e| e.to_string()).and_then(|()| String::from_utf8(out).map_err(|e| e.to_string()));
    text.map(Value::from).map_err(|e| Error::new(ErrorKind::InvalidOperation, e))
}

/// `, ` and `: ` between elements, as Python writes JSON.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }
    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }
    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

/// The date, which some templates write into the system message.
mod clock {
    use minijinja::{Error, ErrorKind};
    use std::time::{SystemTime, UNIX_EPOCH};

    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

    /// The present moment in UTC, in the format of C's `strftime`.
    pub(super) fn strftime_now(format: String) -> Result<String, Error> {
        strftime(&format, SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
    }

    pub(super) fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil(days);
        let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days % 7) as usize]);
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            match chars.next() {
                Some('Y') => out += &year.to_string(),
                Some('y') => out += &format!("{:02}", year % 100),
                Some('m') => out += &format!("{month:02}"),
                Some('d') => out += &format!("{day:02}"),
                Some('B') => out += month_name,
                Some('b') => out += &month_name[..3],
                Some('A') => out += day_name,
                Some('a') => out += &day_name[..3],
                Some('H') => out += &format!("{:02}", second / 3600),
                Some('M') => out += &format!("{:02}", second / 60 % 60),
                Some('S') => out += &format!("{:02}", second % 60),
                Some('%') => out.push('%'),
                other => {
                    let reason = format!("strftime_now: %{} is not supported", other.unwrap_or(' '));
                    return Err(Error::new(ErrorKind::InvalidOperation, reason));
                }
            }
        }
        Ok(out)
    }

    /// Year, month and day of the Gregorian calendar, `days` after 1 January 1970.
    fn civil(days: u64) -> (u64, u64, u64) {
        // Years that begin in March put the leap day last; 719,468 days lie between 1 March 0000 and the epoch.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let march_month = (5 * day + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        (era * 400 + year + u64::from(month <= 2), month, day - (153 * march_month + 2) / 5 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into() }
    }

    fn render(source: &str, messages: &[Message]) -> Result<String, TemplateError> {
        ChatTemplate::new(source, "<s>", "</s>")?.render(messages, true)
    }

    #[test]
    fn blocks_are_trimmed_as_transformers_does() {
        let source = "{{ bos_token }}\n{% for m in messages %}\n    {% if m.role == 'user' %}\nU:{{ m['content'].strip() }}\n    \
                      {%- else %}\nA:{{ m.content | trim }}{{ eos_token }}\n    {% endif %}\n{% endfor %}\n\
                      {% if add_generation_prompt %}A:{% endif %}\n";
        let text = render(source, &[message("user", " hi "), message("assistant", "yes ")]).unwrap();
        assert_eq!(text, "<s>\nU:hiA:yes</s>\nA:");
    }

    /// The template of SmolLM2-135M-Instruct; the expected texts are those of transformers' `apply_chat_template`.
    #[test]
    fn smollm2_renders_as_transformers_does() {
        let source = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
                      {{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}\
                      {% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
                      {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
        assert_eq!(
            render(source, &[message("user", "What is the capital of France?")]).unwrap(),
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
             <|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
        );
        let turns = [message("system", "S"), message("user", "u"), message("assistant", "a"), message("user", "<é>\n \"q\"")];
        assert_eq!(
            render(source, &turns).unwrap(),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n\
             <|im_start|>user\n<é>\n \"q\"<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn json_is_written_as_python_does() {
        assert_eq!(
            render("{{ messages | tojson }}", &[message("user", "<é> & 'x'")]).unwrap(),
            r#"[{"role": "user", "content": "<é> & 'x'"}]"#
        );
    }

    #[test]
    fn loops_can_be_left() {
        let source =
            "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}{% break %}{% endfor %}";
        assert_eq!(render(source, &[message("system", "s"), message("user", "a"), message("user", "b")]).unwrap(), "a");
    }

    #[test]
    fn exceptions_of_the_template_are_errors() {
        let error = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err().to_string();
        assert!(error.contains("roles must alternate"), "{error}");
        assert!(render("{% for %}", &[]).is_err());
        assert!(render("{{ messages[9].content.strip() }}", &[]).is_err());
    }

    #[test]
    fn hostile_templates_come_to_an_end() {
        for source in [
            "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x{% endfor %}{% endfor %}{% endfor %}",
            "{% set ns = namespace(x='xxxxxxxxxxxxxxxx') %}{% for a in range(90) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
            "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        ] {
            assert!(render(source, &[]).is_err(), "{source}");
        }
        assert!(ChatTemplate::new(&"x".repeat(MAX_SOURCE + 1), "", "").is_err());
    }

    #[test]
    fn dates_follow_the_calendar() {
        let date = |seconds| clock::strftime("%a %d %b %Y %H:%M:%S, %A %B %y-%m %%", seconds).unwrap();
        assert_eq!(date(0), "Thu 01 Jan 1970 00:00:00, Thursday January 70-01 %");
        assert_eq!(date(951_826_455), "Tue 29 Feb 2000 12:14:15, Tuesday February 00-02 %");
        assert!(clock::strftime("%Q", 0).is_err());
    }
}
