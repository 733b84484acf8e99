//! What a text does to the inputs of a model's matrices, learned layer after layer.

use crate::{
    Calibration, CompressError, Factor,
    moments::{Moments, Seen},
};
use coffer_checkpoint::TensorSource;
use coffer_engine::{EngineError, Layerwise, LoadOptions, observe::Nobody};
use coffer_kernels::Cpu;
use coffer_model::ModelConfig;
use coffer_store::Model;
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// How the inputs of a model's matrices vary together on a text.
pub type Curvature = LayerInputs<Factor>;

/// What is kept of each input of a model's matrices on a text. It is learned a layer at a time, when it is asked for, and held for one layer:
/// asking in the order of the layers runs the text once, and each step back runs it again.
pub struct LayerInputs<T> {
    config: ModelConfig,
    source: Arc<dyn TensorSource>,
    options: LoadOptions,
    calibration: Calibration,
    keep: fn(Moments, usize) -> T,
    text: Mutex<Text<T>>,
}

impl<T> fmt::Debug for LayerInputs<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerInputs").field("text", &self.calibration.name).finish_non_exhaustive()
    }
}

/// A text somewhere in a model.
struct Text<T> {
    on_the_way: Option<Layerwise>,
    /// Of the inputs of the layer that is right behind it, by canonical name of the weight; `None` if they were passed over.
    inputs: Option<HashMap<String, Arc<T>>>,
}

impl LayerInputs<Factor> {
    /// Of the matrices of `model`, which is run as `options` say, on `calibration`. Nothing is run yet.
    pub fn new(model: &Model, options: LoadOptions, calibration: &Calibration) -> Self {
        Self::keeping(Factor::of, model, options, calibration)
    }
}

impl LayerInputs<Moments> {
    /// The same, without factoring them.
    pub(crate) fn moments(model: &Model, options: LoadOptions, calibration: &Calibration) -> Self {
        Self::keeping(|moments, _| moments, model, options, calibration)
    }
}

impl<T> LayerInputs<T> {
    fn keeping(keep: fn(Moments, usize) -> T, model: &Model, options: LoadOptions, calibration: &Calibration) -> Self {
        Self {
            config: model.config.clone(),
            source: Arc::clone(&model.weights),
            options,
            calibration: calibration.clone(),
            keep,
            text: Mutex::new(Text { on_the_way: None, inputs: None }),
        }
    }

    /// Of the input of `weight`; `None` if the text never met it.
    ///
    /// # Errors
    /// The engine cannot run the text, or memory runs out.
    pub fn input(&self, weight: &str) -> Result<Option<Arc<T>>, CompressError> {
        let Some(layer) = layer_of(weight).filter(|&layer| layer < self.config.layers) else { return Ok(None) };
        // A panic while it was held leaves a text that is between two layers, or none.
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let inputs = text.inputs_of(layer, self)?;
        Ok(inputs.get(weight).cloned())
    }

    fn start(&self) -> Result<Layerwise, EngineError> {
        self.calibration.start(&self.config, Arc::clone(&self.source), self.options)
    }
}

impl<T> Text<T> {
    fn inputs_of(&mut self, layer: usize, of: &LayerInputs<T>) -> Result<&HashMap<String, Arc<T>>, CompressError> {
        let mut texts = match self.on_the_way.take() {
            Some(texts) if texts.done() == layer + 1 && self.inputs.is_some() => texts,
            Some(texts) if texts.done() <= layer => {
                self.inputs = None;
                texts
            }
            // What is behind it is let go of before it begins anew.
            passed => {
                drop(passed);
                self.inputs = None;
                of.start()?
            }
        };
        while texts.done() < layer {
            texts.advance(&mut Nobody)?;
        }
        if self.inputs.is_none() {
            // The observer computes while the layers do nothing.
            let cpu = Cpu::new(of.options.isa, of.options.threads.max(1));
            let mut seen = Seen::new(&cpu);
            texts.advance(&mut seen)?;
            let mut inputs = HashMap::new();
            for (products, moments) in seen.inputs()? {
                let kept = Arc::new((of.keep)(moments, of.options.threads));
                inputs.extend(products.weights().into_iter().map(|name| (name, Arc::clone(&kept))));
            }
            self.inputs = Some(inputs);
        }
        self.on_the_way = Some(texts);
        Ok(self.inputs.get_or_insert_default())
    }
}

/// How many of `weights`, from the first on, need the inputs of one layer at most: they can be worked on at the same time.
pub(crate) fn of_one_layer<'a>(weights: impl Iterator<Item = &'a str>) -> usize {
    let mut first = None;
    let same = |weight: &&str| layer_of(weight).is_none_or(|layer| *first.get_or_insert(layer) == layer);
    weights.take_while(same).count()
}

/// The layer to which a weight belongs, by its canonical name.
pub(crate) fn layer_of(weight: &str) -> Option<usize> {
    weight.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}
