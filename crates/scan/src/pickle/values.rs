//! What the symbolic machine computes with: values, their stack with its marks, and the memo.

use std::{collections::HashMap, rc::Rc};

const MAX_STACK: usize = 4 << 20;
const MAX_MEMO: usize = 4 << 20;

#[derive(Clone)]
pub(super) enum Value {
    Mark,
    Text(Rc<str>),
    /// A named object, by its path.
    Global(Rc<str>),
    /// The result of a call.
    Made,
    /// So many opaque values in a row: a tensor of equal bytes can look like millions of constants.
    Other(u64),
}

pub(super) const OTHER: Value = Value::Other(1);

/// Why a value cannot be had or kept.
pub(super) enum Refusal {
    /// The pickle takes what it never put.
    Broken(String),
    /// It needs more than is kept.
    Limit(&'static str),
}

type Result<T> = std::result::Result<T, Refusal>;

#[derive(Default)]
pub(super) struct Stack {
    values: Vec<Value>,
}

impl Stack {
    pub(super) fn push(&mut self, value: Value) -> Result<()> {
        let full = self.values.len() >= MAX_STACK;
        match (self.values.last_mut(), &value) {
            (Some(Value::Other(run)), Value::Other(_)) => *run += 1,
            _ if full => return Err(Refusal::Limit("a deeper stack than the scanner keeps")),
            _ => self.values.push(value),
        }
        Ok(())
    }

    /// Takes the top, even if it is a mark.
    pub(super) fn pop_any(&mut self) -> Result<Value> {
        if let Some(Value::Other(run @ 2..)) = self.values.last_mut() {
            *run -= 1;
            return Ok(OTHER);
        }
        self.values.pop().ok_or_else(underflow)
    }

    pub(super) fn pop(&mut self) -> Result<Value> {
        match self.pop_any()? {
            Value::Mark => Err(underflow()),
            value => Ok(value),
        }
    }

    /// Takes everything above the last mark, and the mark. Opaque values in a row are one item.
    pub(super) fn pop_to_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.values.iter().rposition(|v| matches!(v, Value::Mark));
        let items = self.values.split_off(mark.ok_or_else(underflow)? + 1);
        self.values.pop();
        Ok(items)
    }

    pub(super) fn top(&self) -> Result<&Value> {
        match self.values.last() {
            None | Some(Value::Mark) => Err(underflow()),
            Some(value) => Ok(value),
        }
    }

    pub(super) fn copy_of_top(&self) -> Result<Value> {
        Ok(match self.top()? {
            Value::Other(_) => OTHER,
            value => value.clone(),
        })
    }

    /// Replaces the top `values` by one.
    pub(super) fn replace(&mut self, values: usize, by: Value) -> Result<()> {
        for _ in 0..values {
            self.pop()?;
        }
        self.push(by)
    }
}

fn underflow() -> Refusal {
    Refusal::Broken("it takes more from the stack than was put there".to_owned())
}

/// Numbered values. Picklers count up from zero, so nearly all lie in `dense`; no key is in both.
#[derive(Default)]
pub(super) struct Memo {
    dense: Vec<Value>,
    sparse: HashMap<u64, Value>,
}

impl Memo {
    pub(super) fn len(&self) -> usize {
        self.dense.len() + self.sparse.len()
    }

    pub(super) fn get(&self, key: u64) -> Result<Value> {
        let dense = usize::try_from(key).ok().and_then(|i| self.dense.get(i));
        let value = dense.or_else(|| self.sparse.get(&key)).cloned();
        value.ok_or_else(|| Refusal::Broken(format!("memo entry {key} was never stored")))
    }

    pub(super) fn insert(&mut self, key: u64, value: Value) -> Result<()> {
        if self.len() >= MAX_MEMO {
            return Err(Refusal::Limit("more memo entries than the scanner keeps"));
        }
        let next = self.dense.len() as u64;
        if key < next {
            self.dense[key as usize] = value;
        } else if key == next && !self.sparse.contains_key(&key) {
            self.dense.push(value);
        } else {
            self.sparse.insert(key, value);
        }
        Ok(())
    }
}
