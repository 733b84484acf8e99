//! Walks the opcodes of one pickle with a symbolic stack: strings and named objects are kept, all else is opaque.
//!
//! Source: CPython's `pickletools` and `_pickle.c`, protocols 0 to 5. Where the two unpicklers are stricter (frames,
//! numbers, text encodings) this one goes on, so it sees at least what they would execute.

use super::{
    globals::{Verdict, judge},
    values::{Memo, OTHER, Refusal, Stack, Value},
};
use crate::{
    escapes::{Escapes, unescape},
    rules::{
        PICKLE_COMPUTED_CALL, PICKLE_DANGEROUS_GLOBAL, PICKLE_PATCHED_GLOBAL, PICKLE_UNKNOWN_GLOBAL, PICKLE_UNRESOLVED_GLOBAL,
        Rule,
    },
    source::{Cursor, ReadStop},
};
use std::{collections::HashMap, io, rc::Rc};

/// Operations of all pickles of one file.
pub(super) const MAX_OPERATIONS: u64 = 100_000_000;
/// Different objects that one pickle names.
const MAX_GLOBALS: usize = 20_000;
const MAX_HITS: usize = 10_000;
/// Longer strings are not kept: no module or object has such a name.
const MAX_NAME: usize = 512;
/// Longest text line (protocol 0 writes numbers and strings as lines).
const MAX_LINE: usize = 64 << 20;

/// Something that a pickle does.
pub(super) struct Hit {
    pub(super) rule: &'static Rule,
    pub(super) offset: u64,
    pub(super) message: String,
}

/// How a pickle ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// At its STOP.
    Stop,
    /// At something that no unpickler would accept.
    Broken(String),
    /// At a limit of this scanner.
    Limit(&'static str),
}

/// What was seen in one pickle.
pub(super) struct Walked {
    pub(super) hits: Vec<Hit>,
    pub(super) end: End,
    /// Position behind the last operation.
    pub(super) position: u64,
    /// Operations executed.
    pub(super) operations: u64,
    /// Whether anything was called.
    pub(super) calls: bool,
}

/// Walks the pickle at `cursor`, at most `budget` operations.
pub(super) fn walk(cursor: Cursor<'_>, budget: u64) -> io::Result<Walked> {
    let mut machine = Machine {
        cursor,
        stack: Stack::default(),
        memo: Memo::default(),
        globals: HashMap::new(),
        hits: Vec::new(),
        calls: false,
        at: 0,
    };
    let mut operations = 0;
    let end = loop {
        if operations == budget {
            break End::Limit("more operations than the scanner follows");
        }
        operations += 1;
        match machine.step() {
            Ok(false) => {}
            Ok(true) => break End::Stop,
            Err(Halt::Broken(reason)) => break End::Broken(reason),
            Err(Halt::Limit(what)) => break End::Limit(what),
            Err(Halt::Io(error)) => return Err(error),
        }
    };
    Ok(Walked { hits: machine.hits, end, position: machine.cursor.position(), operations, calls: machine.calls })
}

enum Halt {
    Broken(String),
    Limit(&'static str),
    Io(io::Error),
}

impl From<ReadStop> for Halt {
    fn from(stop: ReadStop) -> Self {
        match stop {
            ReadStop::End => Halt::Broken("it ends in the middle".to_owned()),
            ReadStop::TooLong => Halt::Limit("a line longer than the scanner follows"),
            ReadStop::Io(error) => Halt::Io(error),
        }
    }
}

impl From<Refusal> for Halt {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Broken(reason) => Halt::Broken(reason),
            Refusal::Limit(what) => Halt::Limit(what),
        }
    }
}

struct Machine<'a> {
    cursor: Cursor<'a>,
    stack: Stack,
    memo: Memo,
    /// Objects named so far: each is judged once, however often it is named.
    globals: HashMap<(String, String), Rc<str>>,
    hits: Vec<Hit>,
    calls: bool,
    /// Offset of the current operation.
    at: u64,
}

impl Machine<'_> {
    /// Executes one operation; `true` after STOP.
    fn step(&mut self) -> Result<bool, Halt> {
        self.at = self.cursor.position();
        let op = self.cursor.u8()?;
        match op {
            b'.' => return Ok(self.stack.pop().map(|_| true)?),
            b'(' => self.stack.push(Value::Mark)?,
            b'0' => drop(self.stack.pop_any()?),
            b'1' => drop(self.stack.pop_to_mark()?),
            b'2' => self.stack.push(self.stack.copy_of_top()?)?,
            0x80 => match self.cursor.u8()? {
                0..=5 => {}
                version => return Err(Halt::Broken(format!("protocol {version} does not exist"))),
            },
            0x95 => self.cursor.skip(8)?,                                                     // FRAME
            b'N' | 0x88 | 0x89 | b')' | b']' | b'}' | 0x8f | 0x97 => self.stack.push(OTHER)?, // constants, empty containers
            b'I' | b'L' | b'F' | b'P' => self.line_value()?,
            b'S' | b'V' => self.quoted_text(op)?,
            b'K' | b'M' | b'J' | b'G' => self.sized_value(op)?,
            0x8a | 0x8b | b'U' | b'T' | b'X' | 0x8c | 0x8d | b'B' | b'C' | 0x8e | 0x96 => self.counted_value(op)?,
            b't' | b'l' | b'd' | 0x91 => self.collect()?,
            0x85..=0x87 => self.stack.replace(usize::from(op - 0x84), OTHER)?,
            b'a' => self.extend(1)?,
            b's' => self.extend(2)?,
            b'e' | b'u' | 0x90 => self.extend_to_mark()?,
            b'g' | b'h' | b'j' | b'p' | b'q' | b'r' | 0x94 => self.memo(op)?,
            b'c' | b'i' | 0x93 => self.name(op)?,
            0x82..=0x84 => self.extension(op)?,
            b'R' | b'o' | 0x81 | 0x92 => self.call(op)?,
            b'b' => self.build()?,
            b'Q' => self.stack.replace(1, OTHER)?, // BINPERSID
            0x98 => drop(self.stack.top()?),       // READONLY_BUFFER
            _ => return Err(Halt::Broken(format!("there is no operation 0x{op:02x}"))),
        }
        Ok(false)
    }

    /// INT, LONG, FLOAT, PERSID.
    fn line_value(&mut self) -> Result<(), Halt> {
        self.cursor.line(MAX_LINE)?;
        Ok(self.stack.push(OTHER)?)
    }

    /// STRING in quotes with backslash escapes, UNICODE with `\u` escapes only.
    fn quoted_text(&mut self, op: u8) -> Result<(), Halt> {
        let line = self.cursor.line(MAX_LINE)?;
        let value = if line.len() > MAX_NAME * 10 {
            OTHER
        } else if op == b'V' {
            text(&unescape(&line, Escapes::Unicode))
        } else {
            let trimmed = line.trim_ascii();
            let inner = match trimmed {
                [b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"'] => inner,
                _ => return Err(Halt::Broken("a string without quotes".to_owned())),
            };
            text(&unescape(inner, Escapes::Bytes))
        };
        Ok(self.stack.push(value)?)
    }

    /// BININT1, BININT2, BININT, BINFLOAT.
    fn sized_value(&mut self, op: u8) -> Result<(), Halt> {
        self.cursor.skip(match op {
            b'K' => 1,
            b'M' => 2,
            b'J' => 4,
            _ => 8,
        })?;
        Ok(self.stack.push(OTHER)?)
    }

    /// Numbers, strings and bytes behind their length.
    fn counted_value(&mut self, op: u8) -> Result<(), Halt> {
        let len = match op {
            0x8a | b'U' | 0x8c | b'C' => u64::from(self.cursor.u8()?),
            0x8b | b'T' | b'X' | b'B' => u64::from(self.cursor.u32()?),
            _ => self.cursor.u64()?,
        };
        // Python 3 turns the strings of Python 2 (U, T) into text, too.
        let value = match self.cursor.bytes(len, MAX_NAME)? {
            Some(bytes) if matches!(op, b'U' | b'T' | b'X' | 0x8c | 0x8d) => text(&bytes),
            _ => OTHER,
        };
        Ok(self.stack.push(value)?)
    }

    /// TUPLE, LIST, DICT, FROZENSET.
    fn collect(&mut self) -> Result<(), Halt> {
        self.stack.pop_to_mark()?;
        Ok(self.stack.push(OTHER)?)
    }

    fn extend(&mut self, values: usize) -> Result<(), Halt> {
        for _ in 0..values {
            self.stack.pop()?;
        }
        self.changes_top("puts items into")
    }

    fn extend_to_mark(&mut self) -> Result<(), Halt> {
        self.stack.pop_to_mark()?;
        self.changes_top("puts items into")
    }

    fn build(&mut self) -> Result<(), Halt> {
        self.stack.pop()?;
        self.changes_top("sets attributes of")
    }

    /// The object on top is changed; if that is a module, class or function, so is the program that loads the pickle.
    fn changes_top(&mut self, how: &str) -> Result<(), Halt> {
        if let Value::Global(name) = self.stack.top()? {
            let message = format!("{how} {name} itself, which changes the program that loads the file");
            self.hit(&PICKLE_PATCHED_GLOBAL, message);
        }
        Ok(())
    }

    /// GET and PUT in their forms, MEMOIZE.
    fn memo(&mut self, op: u8) -> Result<(), Halt> {
        let key = match op {
            b'g' | b'p' => {
                let line = self.cursor.line(64)?;
                // Python allows underscores between digits.
                let digits = std::str::from_utf8(line.trim_ascii()).ok().and_then(|s| s.replace('_', "").parse().ok());
                digits.ok_or_else(|| Halt::Broken("a memo index that is no number".to_owned()))?
            }
            b'h' | b'q' => u64::from(self.cursor.u8()?),
            b'j' | b'r' => u64::from(self.cursor.u32()?),
            _ => self.memo.len() as u64,
        };
        if matches!(op, b'g' | b'h' | b'j') {
            self.stack.push(self.memo.get(key)?)?;
        } else {
            self.memo.insert(key, self.stack.copy_of_top()?)?;
        }
        Ok(())
    }

    /// GLOBAL and INST (names as lines), STACK_GLOBAL (names on the stack).
    fn name(&mut self, op: u8) -> Result<(), Halt> {
        let (module, name) = if op == 0x93 {
            let (name, module) = (self.stack.pop()?, self.stack.pop()?);
            match (module, name) {
                (Value::Text(module), Value::Text(name)) => (module.to_string(), name.to_string()),
                _ => {
                    let message = "names an object by strings that are computed while loading".to_owned();
                    self.hit(&PICKLE_UNRESOLVED_GLOBAL, message);
                    return Ok(self.stack.push(Value::Global("(computed)".into()))?);
                }
            }
        } else {
            let mut line = || -> Result<String, Halt> {
                let bytes = self.cursor.line(MAX_NAME)?;
                String::from_utf8(bytes).map_err(|_| Halt::Broken("a name that is not UTF-8".to_owned()))
            };
            (line()?, line()?)
        };
        let value = Value::Global(self.judge(module, name)?);
        if op == b'i' {
            self.stack.pop_to_mark()?;
            self.calls = true;
            return Ok(self.stack.push(Value::Made)?);
        }
        Ok(self.stack.push(value)?)
    }

    /// Judges an object and returns its path.
    fn judge(&mut self, module: String, name: String) -> Result<Rc<str>, Halt> {
        let key = (module, name);
        if let Some(path) = self.globals.get(&key) {
            return Ok(Rc::clone(path));
        }
        if self.globals.len() >= MAX_GLOBALS {
            return Err(Halt::Limit("more different objects than the scanner keeps"));
        }
        let path: Rc<str> = format!("{}.{}", key.0, key.1).into();
        match judge(&key.0, &key.1) {
            Verdict::Safe => {}
            Verdict::Dangerous => {
                let message = format!("names {path:?}, which has no place in a model and can run code when the file is loaded");
                self.hit(&PICKLE_DANGEROUS_GLOBAL, message);
            }
            Verdict::Unknown => {
                let message = format!("names {path:?}, which the scanner does not know; loading may run its code");
                self.hit(&PICKLE_UNKNOWN_GLOBAL, message);
            }
        }
        self.globals.insert(key, Rc::clone(&path));
        Ok(path)
    }

    /// EXT1, EXT2, EXT4: a number from a registry of the loading program.
    fn extension(&mut self, op: u8) -> Result<(), Halt> {
        self.cursor.skip([1, 2, 4][usize::from(op - 0x82)])?;
        let message =
            "names an object by a number of copyreg's extension registry, which only the loading program knows".to_owned();
        self.hit(&PICKLE_UNRESOLVED_GLOBAL, message);
        Ok(self.stack.push(Value::Global("(extension)".into()))?)
    }

    /// REDUCE, OBJ, NEWOBJ, NEWOBJ_EX.
    fn call(&mut self, op: u8) -> Result<(), Halt> {
        let callee = if op == b'o' {
            self.stack.pop_to_mark()?.into_iter().next()
        } else {
            for _ in 0..if op == 0x92 { 2 } else { 1 } {
                self.stack.pop()?;
            }
            Some(self.stack.pop()?)
        };
        self.calls = true;
        match callee {
            Some(Value::Global(_)) => {}
            Some(Value::Made) => {
                let message = "calls something that an earlier call returned; no data needs that".to_owned();
                self.hit(&PICKLE_COMPUTED_CALL, message);
            }
            _ => return Err(Halt::Broken("it calls something that cannot be called".to_owned())),
        }
        Ok(self.stack.push(Value::Made)?)
    }

    fn hit(&mut self, rule: &'static Rule, message: String) {
        if self.hits.len() < MAX_HITS {
            self.hits.push(Hit { rule, offset: self.at, message });
        }
    }
}

fn text(bytes: &[u8]) -> Value {
    if bytes.len() > MAX_NAME { OTHER } else { Value::Text(String::from_utf8_lossy(bytes).into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(bytes: &[u8]) -> (Vec<String>, End) {
        let walked = walk(Cursor::new(&bytes, 0), 1000).unwrap();
        (walked.hits.iter().map(|h| format!("{}: {}", h.rule.id, h.message)).collect(), walked.end)
    }

    #[test]
    fn names_come_from_strings_escapes_and_memo() {
        for pickle in [
            &b"\x80\x04\x8c\x02os\x8c\x06system\x93."[..],
            b"V\\u006fs\nV\\u0073ystem\n\x93.",
            b"S'\\x6fs'\nS\"system\"\n\x93.",
            b"Vos\np5\n0Vsystem\np1_6\n0g5\ng16\n\x93.",
            b"\x8c\x02os\x94\x8c\x06system\x94\x30\x30h\x00h\x01\x93.",
            b"X\x02\0\0\0osU\x06system\x93.",
            b"cos\nsystem\n.",
            b"(ios\nsystem\n.",
            b"(cos\nsystem\nVid\no.",
        ] {
            let (hits, end) = names(pickle);
            assert_eq!(end, End::Stop);
            assert!(hits[0].contains("\"os.system\""), "{hits:?}");
        }
    }

    #[test]
    fn what_cannot_be_resolved_is_unsafe() {
        for (pickle, rule) in [
            (&b"NN\x93."[..], "pickle-unresolved-global"),
            (b"\x82\x01.", "pickle-unresolved-global"),
            (b"\x83\x01\x02.", "pickle-unresolved-global"),
            (b"\x84\x01\x02\x03\x04.", "pickle-unresolved-global"),
            (b"c_codecs\nencode\n)R)R.", "pickle-computed-call"),
            (b"ctorch\nTensor\n}b.", "pickle-patched-global"),
            (b"ctorch\nTensor\nK\x01K\x02s.", "pickle-patched-global"),
            (b"ctorch\nTensor\n(K\x01K\x02u.", "pickle-patched-global"),
        ] {
            let (hits, end) = names(pickle);
            assert_eq!(end, End::Stop);
            assert!(hits.iter().any(|h| h.starts_with(rule)), "{hits:?}");
        }
    }

    #[test]
    fn damage_is_reported_not_followed() {
        for pickle in [
            &b""[..],
            b"N",
            b".",
            b"(.",
            b"0",
            b"t.",
            b"h\x07.",
            b"gx\n.",
            b"\x80\x06N.",
            b"\xff",
            b"X\xff\xff\xff\xffabc",
            b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffabc",
            b"I1",
            b"NNR.",
            b"Sos\n.",
            b"cos\n\xff\n.",
        ] {
            assert!(matches!(names(pickle).1, End::Broken(_)), "{pickle:?}");
        }
    }

    #[test]
    fn operations_are_limited() {
        assert_eq!(names(&b"N0".repeat(1000)).1, End::Limit("more operations than the scanner follows"));
    }
}
