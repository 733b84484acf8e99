//! Quantizing by several processes that share nothing: each makes a shard, some tensors in a row, and one gathers them. The result is
//! what a single process would have written.

use crate::{
    CompressError, METHODS, Made, Method, Progress, Summary, Task, driver,
    method::Entry,
    quantize::{Quantize, QuantizeParams},
    rows,
};
use coffer_checkpoint::{ReadError, TensorId, TensorIndex, TensorInfo, TensorSource};
use coffer_evidence::{PartDigest, Recipe, WeightsDigest};
use coffer_store::{
    Destination, Model, Shard,
    digest::of_tensor,
    shard::{DTypeName, ShardHeader, ShardTensor, ShardWriter},
};
use std::{cmp::Ordering, ops::Range, str::FromStr};

/// One of the equal parts of some work, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    index: u32,
    count: u32,
}

impl FromStr for Part {
    type Err = String;
    /// `0/4` to `3/4`.
    fn from_str(s: &str) -> Result<Self, String> {
        let numbers = s.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index, count)) if index < count => Ok(Self { index, count }),
            Some((index, count)) => Err(format!("there is no part {index} of {count}; they are counted from 0")),
            None => Err("it must be I/N: part I, counted from 0, of N".to_owned()),
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl Part {
    /// What is put behind the name of an output for this part of it: `.shard-0-of-4`.
    pub fn suffix(self) -> String {
        format!(".shard-{}-of-{}", self.index, self.count)
    }

    /// Which of things of these sizes are in this part. Each thing is in the part in which its middle lies.
    fn of(self, sizes: &[u64]) -> Range<usize> {
        let total: u128 = sizes.iter().map(|&n| u128::from(n)).sum();
        let (mut before, mut range) = (0u128, 0..0);
        for (i, &size) in sizes.iter().enumerate() {
            let middle = 2 * before + u128::from(size);
            let part = (middle * u128::from(self.count) / (2 * total).max(1)).min(u128::from(self.count) - 1);
            match part.cmp(&u128::from(self.index)) {
                Ordering::Less => range = i + 1..i + 1,
                Ordering::Equal => range.end = i + 1,
                Ordering::Greater => {}
            }
            before += u128::from(size);
        }
        range
    }
}

/// What a part of what [`quantize`](crate::quantize::quantize) would write says of itself; `recipe` goes into it. Reads what the part
/// is made of, for its digests.
///
/// # Errors
/// As [`quantize`](crate::quantize::quantize).
pub fn header(
    model: &Model,
    params: &QuantizeParams,
    part: Part,
    recipe: Recipe,
    progress: &mut Progress<'_>,
) -> Result<ShardHeader, CompressError> {
    let tasks = SomeOf::new(model, params, part).plan()?;
    let sources = tasks.iter().map(|t| rows::find(&*model.weights, &t.output.name)).collect::<Result<Vec<_>, _>>()?;
    let (mut done, total) = (0, sources.iter().filter_map(|(_, info)| info.bytes()).sum());
    progress(done, total);
    let mut tensors = Vec::with_capacity(tasks.len());
    for (Task { output: TensorInfo { name, dtype, shape }, .. }, (id, _)) in tasks.into_iter().zip(sources) {
        let source = of_tensor(&*model.weights, id, &mut |bytes| {
            done += bytes;
            progress(done, total);
        })?;
        tensors.push(ShardTensor { name, dtype: DTypeName(dtype), shape, source });
    }
    Ok(ShardHeader::new(part.index, part.count, recipe, tensors))
}

/// Writes the part that `header` is of, plain or sealed.
///
/// # Errors
/// As [`quantize`](crate::quantize::quantize).
pub fn quantize_part<'a>(
    model: &Model,
    out: impl Into<Destination<'a>>,
    params: &QuantizeParams,
    header: &ShardHeader,
    progress: &mut Progress<'_>,
) -> Result<Summary, CompressError> {
    let method = SomeOf::new(model, params, Part { index: header.shard, count: header.of });
    let tasks = method.plan()?;
    let read = tasks.iter().map(|t| Ok(rows::find(&*model.weights, &t.output.name)?.1.bytes().unwrap_or(0)));
    let plan = driver::plan(&method, read.sum::<Result<u64, CompressError>>()?, params.threads)?;
    let mut writer = ShardWriter::create(out.into(), header)?;
    let (mut done, total) = (0, plan.summary.bytes_out);
    progress(done, total);
    driver::run(&method, &tasks, params.threads, &mut |bytes| {
        writer.write(bytes)?;
        done += bytes.len() as u64;
        progress(done, total);
        Ok(())
    })?;
    writer.finish()?;
    Ok(plan.summary)
}

/// A part of a method's tasks.
struct SomeOf {
    method: Quantize,
    part: Part,
}

impl SomeOf {
    fn new(model: &Model, params: &QuantizeParams, part: Part) -> Self {
        Self { method: Quantize::of(model, params), part }
    }
}

impl Method for SomeOf {
    fn entry(&self) -> &'static Entry {
        self.method.entry()
    }

    fn plan(&self) -> Result<Vec<Task>, CompressError> {
        let mut tasks = self.method.plan()?;
        let sizes: Vec<u64> = tasks.iter().map(|t| t.output.elements().unwrap_or(u64::MAX)).collect();
        let Range { start, end } = self.part.of(&sizes);
        tasks.truncate(end);
        tasks.drain(..start);
        Ok(tasks)
    }

    fn together(&self, next: &[Task]) -> usize {
        self.method.together(next)
    }

    fn run(&self, task: &Task, rows: Range<u64>) -> Result<Vec<u8>, CompressError> {
        self.method.run(task, rows)
    }
}

/// All shards of a model, in order.
pub struct Gathered {
    shards: Vec<Shard>,
    entry: &'static Entry,
    index: TensorIndex,
    /// Of each tensor in turn: its shard, and which one it is there.
    places: Vec<(usize, TensorId)>,
}

impl Gathered {
    /// Puts shards, in any order, together: all of one work, and everything that `model` has.
    ///
    /// # Errors
    /// Returns [`CompressError::Shards`] if one is missing, there twice, or of other work.
    pub fn new(model: &Model, mut shards: Vec<Shard>) -> Result<Self, CompressError> {
        let refused = |reason: String| CompressError::Shards { reason };
        shards.sort_by_key(|s| s.header().shard);
        let first = shards.first().ok_or_else(|| refused("no shard is named".into()))?;
        let head = first.header().clone();
        for (i, shard) in (0..).zip(&shards) {
            let ShardHeader { shard: index, of, recipe, .. } = shard.header();
            if *of != head.of {
                return Err(refused(format!("{} is one of {of}, and {} one of {}", shard.name(), first.name(), head.of)));
            }
            if *recipe != head.recipe {
                let reason = "was not made by the same method, with the same parameters and from the same text";
                return Err(refused(format!("{} {reason} as {}", shard.name(), first.name())));
            }
            match index.cmp(&i) {
                Ordering::Equal => {}
                Ordering::Less => return Err(refused(format!("shard {index} is there twice, also as {}", shard.name()))),
                Ordering::Greater => return Err(refused(format!("shard {i} of {of} is missing"))),
            }
        }
        if shards.len() != head.of as usize {
            return Err(refused(format!("shard {} of {} is missing", shards.len(), head.of)));
        }
        let known = METHODS.iter().find(|entry| entry.id == head.recipe.method);
        let entry = known.ok_or_else(|| refused(format!("made by {}, which this program lacks", head.recipe.method)))?;
        if head.recipe.contract != coffer_kernels::CONTRACT {
            return Err(refused(format!("made under contract {}, this is {}", head.recipe.contract, coffer_kernels::CONTRACT)));
        }
        let all = || shards.iter().enumerate().flat_map(|(s, shard)| shard.index().iter().map(move |(id, info)| (s, id, info)));
        let (infos, places): (Vec<_>, Vec<_>) = all().map(|(s, id, info)| (info.clone(), (s, id))).unzip();
        let same = |(made, (_, has)): (&TensorInfo, (TensorId, &TensorInfo))| made.name == has.name && made.shape == has.shape;
        if infos.len() != model.weights.index().len() || !infos.iter().zip(model.weights.index().iter()).all(same) {
            return Err(refused("their tensors are not those of the model that is named".into()));
        }
        let index = TensorIndex::new(infos).map_err(|tensor| refused(format!("tensor {tensor} is there twice")))?;
        Ok(Self { entry, index, places, shards })
    }

    /// How they were made.
    pub fn recipe(&self) -> &Recipe {
        // There is one: shards that are gathered are not none.
        &self.shards[0].header().recipe
    }

    /// Holds every byte of the shards against what was written, and `model` against what they were made of; gives the digest of its
    /// weights.
    ///
    /// # Errors
    /// Returns [`CompressError::Shards`] if the model is another one, or was changed meanwhile; an error of the store if a shard was.
    pub fn verify(&self, model: &Model, progress: &mut Progress<'_>) -> Result<WeightsDigest, CompressError> {
        let source = driver::bytes_of(&*model.weights);
        let total = source + driver::bytes_of(self);
        let mut done = 0;
        for shard in &self.shards {
            shard.verify(&mut |bytes| {
                done += bytes;
                progress(done, total);
            })?;
        }
        let (digest, tensors) = model.weights_digests(&mut |now, _| progress(done + now, total))?;
        let made_of = self.shards.iter().flat_map(|s| s.header().tensors.iter().map(move |t| (s, t)));
        for (shard, ShardTensor { name, source, .. }) in made_of {
            if tensors.get(name).map(|PartDigest(d)| d) != Some(&source.0) {
                let reason = format!("{} was made when tensor {name} of the model was another one", shard.name());
                return Err(CompressError::Shards { reason });
            }
        }
        Ok(digest)
    }

    /// What [`gather`] would write.
    ///
    /// # Errors
    /// As [`gather`], as far as can be told without reading weights.
    pub fn plan(&self, model: &Model, threads: usize) -> Result<driver::Plan, CompressError> {
        driver::plan(self, driver::bytes_of(&*model.weights), threads)
    }
}

/// Makes the model that `gathered` are the shards of, for `out`.
///
/// # Errors
/// Returns [`CompressError`] if reading or writing fails.
pub fn gather<'a>(
    gathered: &Gathered,
    model: &Model,
    out: impl Into<Destination<'a>>,
    threads: usize,
    progress: &mut Progress<'_>,
) -> Result<Made, CompressError> {
    let scheme = &gathered.recipe().parameters.scheme;
    let known = scheme.parse::<crate::quantize::Scheme>();
    let target = known.map_err(|e| CompressError::Shards { reason: e.to_string() })?.target();
    driver::execute(gathered, model, (out.into(), target), driver::bytes_of(&*model.weights), threads, progress)
}

impl Method for Gathered {
    fn entry(&self) -> &'static Entry {
        self.entry
    }

    fn plan(&self) -> Result<Vec<Task>, CompressError> {
        self.index.iter().map(|(_, info)| rows::task_by_rows(info.clone(), 1)).collect()
    }

    fn run(&self, task: &Task, rows: Range<u64>) -> Result<Vec<u8>, CompressError> {
        let (id, _) = rows::find(self, &task.output.name)?;
        rows::read_raw(self, id, rows)
    }
}

impl TensorSource for Gathered {
    fn index(&self) -> &TensorIndex {
        &self.index
    }

    fn read_rows(&self, t: TensorId, rows: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        let (shard, id) = self.places[t.0];
        self.shards[shard].read_rows(id, rows, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_are_written_as_people_write_them() {
        let part: Part = "3/16".parse().unwrap();
        assert_eq!((part.to_string(), part.suffix()), ("3/16".to_owned(), ".shard-3-of-16".to_owned()));
        for wrong in ["", "3", "4/4", "0/0", "-1/4", "1/4/2", "a/b"] {
            assert!(wrong.parse::<Part>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_thing_is_in_one_part_and_parts_are_about_equal(
            sizes in prop::collection::vec(prop_oneof![0u64..1000, Just(u64::MAX)], 0..40),
            count in 1u32..20,
        ) {
            let mut next = 0;
            let total: u128 = sizes.iter().map(|&n| u128::from(n)).sum();
            let largest = sizes.iter().copied().max().map_or(0, u128::from);
            for index in 0..count {
                let Range { start, end } = Part { index, count }.of(&sizes);
                if start != end {
                    prop_assert_eq!(start, next);
                    next = end;
                }
                let share: u128 = sizes[start..end].iter().map(|&n| u128::from(n)).sum();
                prop_assert!(share <= total / u128::from(count) + largest + 1);
            }
            prop_assert_eq!(next, sizes.len());
        }
    }
}
