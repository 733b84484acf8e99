//! Runs a method: plan, work on several threads, write in order.

use crate::{CompressError, Method, Task, rows};
use coffer_checkpoint::{TensorInfo, TensorSource};
use coffer_engine::EngineError;
use coffer_store::{Destination, Model, ModelWriter, Nameless, Target};
use std::{collections::BTreeMap, ops::Range, path::Path, sync::mpsc, thread};

/// Called with the bytes written so far and the bytes in all.
pub type Progress<'a> = dyn FnMut(u64, u64) + 'a;

/// What a method makes.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Summary {
    /// Method and version.
    pub method: &'static str,
    /// Tensors.
    pub tensors: usize,
    /// Numbers in all tensors.
    pub weights: u64,
    /// Bytes of the tensors that are read.
    pub bytes_in: u64,
    /// Bytes of the tensors that are written.
    pub bytes_out: u64,
    /// Bits written for each weight.
    pub bits_per_weight: f64,
    /// How many tensors there are of each type.
    pub types: BTreeMap<String, usize>,
    /// Tensors that an interrupted run had left.
    #[serde(skip_serializing_if = "is_zero")]
    pub kept: usize,
}

/// A model that is made and has no name yet.
pub struct Made {
    /// What it is.
    pub summary: Summary,
    /// It itself.
    pub model: Nameless,
}

impl Made {
    /// Gives it the name `out`.
    ///
    /// # Errors
    /// As [`Nameless::place`].
    pub fn place(self, out: &Path) -> Result<Summary, CompressError> {
        self.model.place(out)?;
        Ok(self.summary)
    }
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// What a method would make and what that takes.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Plan {
    /// The outcome.
    #[serde(flatten)]
    pub summary: Summary,
    /// Pieces of work.
    pub steps: u64,
    /// Bytes of memory at the busiest moment, apart from the program itself and what was loaded before.
    pub peak_memory: u64,
    /// Tensors to write, in order.
    pub outputs: Vec<Output>,
}

/// A tensor to write.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Output {
    /// Name, Hugging Face's way.
    pub name: String,
    /// Element type.
    pub dtype: String,
    /// Extents, outermost first.
    pub shape: Vec<u64>,
    /// Bytes.
    pub bytes: u64,
}

/// Says what [`execute`] would do; `bytes_in` is what the method reads.
///
/// # Errors
/// Returns what the method has to say about its parameters and sources.
pub fn plan(method: &dyn Method, bytes_in: u64, threads: usize) -> Result<Plan, CompressError> {
    let tasks = method.plan()?;
    let mut outputs = Vec::with_capacity(tasks.len());
    let (mut weights, mut bytes_out, mut steps) = (0u64, 0u64, 0u64);
    let mut types = BTreeMap::new();
    for Task { output, unit_rows, .. } in &tasks {
        let bytes = output.stored_bytes().ok_or_else(|| rows::too_large(output))?;
        weights = weights.saturating_add(output.elements().unwrap_or(u64::MAX));
        bytes_out = bytes_out.saturating_add(bytes);
        steps += output.rows().div_ceil((*unit_rows).max(1));
        *types.entry(output.dtype.name()).or_insert(0) += 1;
        outputs.push(Output { name: output.name.clone(), dtype: output.dtype.name(), shape: output.shape.clone(), bytes });
    }
    let bits_per_weight = bytes_out as f64 * 8.0 / weights.max(1) as f64;
    let largest = tasks.iter().map(|t| t.unit_bytes).max().unwrap_or(0);
    let summary = Summary {
        method: method.entry().id,
        tensors: outputs.len(),
        weights,
        bytes_in,
        bytes_out,
        bits_per_weight,
        types,
        kept: 0,
    };
    Ok(Plan { summary, steps, peak_memory: largest.saturating_mul(threads.max(1) as u64), outputs })
}

/// Runs `method` on `threads` threads and writes a model like `like` for `out`, from where an interrupted run of the same work
/// left it.
///
/// # Errors
/// Returns the first error in the order of the output. If reading or writing failed, what is whole is left beside `out` for the same
/// work to go on with, and nothing otherwise.
pub(crate) fn execute(
    method: &dyn Method,
    like: &Model,
    (out, target): (Destination<'_>, Target),
    bytes_in: u64,
    threads: usize,
    progress: &mut Progress<'_>,
) -> Result<Made, CompressError> {
    let Plan { mut summary, .. } = plan(method, bytes_in, threads)?;
    let tasks = method.plan()?;
    let tensors: Vec<TensorInfo> = tasks.iter().map(|t| t.output.clone()).collect();
    let mut writer = ModelWriter::create(out, target, like, &tensors)?;
    summary.kept = writer.kept();
    let bytes = |tensors: &[TensorInfo]| -> u64 { tensors.iter().filter_map(TensorInfo::bytes).sum() };
    let (mut done, total) = (bytes(&tensors[..summary.kept]), bytes(&tensors));
    progress(done, total);
    let made = run(method, &tasks[summary.kept..], threads, &mut |bytes| {
        writer.write(bytes)?;
        done += bytes.len() as u64;
        progress(done, total);
        Ok(())
    });
    if let Err(error) = made {
        let outside = matches!(
            error,
            CompressError::Store(_)
                | CompressError::Read(_)
                | CompressError::Engine(EngineError::Read { .. } | EngineError::Memory { .. })
        );
        return Err(match outside.then(|| writer.leave()).flatten() {
            Some(left) => CompressError::Interrupted { left: left.display().to_string(), error: Box::new(error) },
            None => error,
        });
    }
    Ok(Made { summary, model: writer.complete()? })
}

/// Bytes of all tensors of `source`.
pub(crate) fn bytes_of(source: &dyn TensorSource) -> u64 {
    source.index().iter().fold(0, |n, (_, t)| n.saturating_add(t.bytes().unwrap_or(0)))
}

/// Computes all tasks and hands their bytes to `sink` in order.
pub(crate) fn run(
    method: &dyn Method,
    mut tasks: &[Task],
    threads: usize,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), CompressError>,
) -> Result<(), CompressError> {
    while !tasks.is_empty() {
        let (now, later) = tasks.split_at(method.together(tasks).clamp(1, tasks.len()));
        run_together(method, now, threads, sink)?;
        tasks = later;
    }
    Ok(())
}

/// Worker `w` of `n` takes pieces w, w + n, w + 2n…, at
/// most one of which waits to be taken.
fn run_together(
    method: &dyn Method,
    tasks: &[Task],
    threads: usize,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), CompressError>,
) -> Result<(), CompressError> {
    let threads = threads.max(1);
    thread::scope(|scope| {
        let finished: Vec<mpsc::Receiver<_>> = (0..threads)
            .map(|worker| {
                let (sender, receiver) = mpsc::sync_channel(1);
                scope.spawn(move || {
                    for (task, rows) in pieces(tasks).skip(worker).step_by(threads) {
                        if sender.send(method.run(task, rows)).is_err() {
                            return; // the other end stopped at an error
                        }
                    }
                });
                receiver
            })
            .collect();
        for (_, receiver) in pieces(tasks).zip(finished.iter().cycle()) {
            // A worker that is gone too early has panicked; leaving the scope passes that on.
            let Ok(bytes) = receiver.recv() else { break };
            sink(&bytes?)?;
        }
        Ok(())
    })
}

fn pieces(tasks: &[Task]) -> impl Iterator<Item = (&Task, Range<u64>)> {
    tasks.iter().flat_map(|task| {
        let rows = task.output.rows();
        let unit = task.unit_rows.max(1);
        (0..rows.div_ceil(unit)).map(move |i| (task, i * unit..((i + 1) * unit).min(rows)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        method::{Entry, Kind, Needs},
        prune::magnitude::ENTRY,
    };
    use coffer_checkpoint::DType;

    /// Writes the row numbers of every task; fails at `bad`.
    struct Rows {
        bad: Option<u64>,
    }

    impl Method for Rows {
        fn entry(&self) -> &'static Entry {
            &ENTRY
        }
        fn plan(&self) -> Result<Vec<Task>, CompressError> {
            let output = |name: &str, rows| TensorInfo { name: name.into(), dtype: DType::F32, shape: vec![rows, 2] };
            let task = |name, rows, unit_rows| Task { output: output(name, rows), unit_rows, unit_bytes: unit_rows * 16 };
            Ok(vec![task("a", 7, 2), task("b", 0, 4), task("c", 9, 4), task("d", 3, 100)])
        }
        fn run(&self, task: &Task, rows: Range<u64>) -> Result<Vec<u8>, CompressError> {
            if self.bad.is_some_and(|b| rows.contains(&b)) {
                return Err(CompressError::Missing(format!("{} {rows:?}", task.output.name)));
            }
            Ok(rows.flat_map(|r| [task.output.name.as_bytes()[0], r as u8]).collect())
        }
    }

    fn collect(method: &Rows, threads: usize) -> Result<Vec<u8>, CompressError> {
        let mut out = Vec::new();
        run(method, &method.plan()?, threads, &mut |bytes| {
            out.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(out)
    }

    #[test]
    fn any_number_of_threads_writes_the_same_bytes_in_order() {
        let expected: Vec<u8> =
            [(b'a', 7), (b'c', 9), (b'd', 3)].into_iter().flat_map(|(n, rows)| (0..rows).flat_map(move |r| [n, r])).collect();
        for threads in [0, 1, 2, 3, 4, 16] {
            assert_eq!(collect(&Rows { bad: None }, threads).unwrap(), expected, "{threads} threads");
        }
    }

    #[test]
    fn the_first_error_in_order_is_reported_and_workers_stop() {
        for threads in [1, 2, 4] {
            let error = collect(&Rows { bad: Some(6) }, threads).unwrap_err();
            assert_eq!(error.to_string(), "the model has no tensor a 6..7");
        }
    }

    #[test]
    fn an_error_of_the_sink_ends_the_work() {
        let method = Rows { bad: None };
        let mut full = |_: &[u8]| Err(CompressError::Missing("room".into()));
        assert!(run(&method, &method.plan().unwrap(), 2, &mut full).is_err());
    }

    #[test]
    fn the_plan_counts_bytes_steps_and_types() {
        let plan = plan(&Rows { bad: None }, 1000, 3).unwrap();
        assert_eq!((plan.summary.weights, plan.summary.bytes_out, plan.summary.bytes_in), (38, 152, 1000));
        assert_eq!((plan.steps, plan.peak_memory, plan.summary.bits_per_weight), (8, 4800, 32.0));
        assert_eq!(plan.summary.types, BTreeMap::from([("F32".to_owned(), 4)]));
        assert_eq!(ENTRY.kind, Kind::Prune);
        assert_eq!(ENTRY.needs, Needs::Nothing);
    }
}
