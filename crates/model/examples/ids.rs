//! Prints the token ids of a text file, one a line: `ids MODEL TEXT`, MODEL a Hugging Face directory or a GGUF file.
//! Made for comparison with other tokenizers.

use coffer_checkpoint::{FileAt, gguf::GgufFile};
use coffer_model::Tokenizer;
use std::{error::Error, io::Write, path::Path, sync::Arc};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(model), Some(text)) = (args.next(), args.next()) else { return Err("usage: ids MODEL TEXT".into()) };
    let model = Path::new(&model);
    let tokenizer = if model.is_dir() {
        let config = std::fs::read(model.join("tokenizer_config.json")).ok();
        Tokenizer::from_json(&std::fs::read(model.join("tokenizer.json"))?, config.as_deref())?
    } else {
        Tokenizer::from_gguf(GgufFile::open("model", Arc::new(FileAt::open(model)?))?.metadata())?
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for id in tokenizer.encode(&std::fs::read_to_string(text)?, false)? {
        writeln!(out, "{id}")?;
    }
    Ok(())
}
