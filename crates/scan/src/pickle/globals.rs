//! Which Python objects a pickle may name.
//!
//! The base is the allow-list: what `torch.load(weights_only=True)`, numpy and plain Python data need. Everything else in
//! the standard library or in a package that runs code for others is dangerous; what remains is unknown.

use super::stdlib::STANDARD_LIBRARY;
use std::{collections::HashSet, sync::LazyLock};

/// What naming an object means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Rebuilds data.
    Safe,
    /// Nobody can say without its source.
    Unknown,
    /// Runs code or opens the door to it.
    Dangerous,
}

pub(crate) fn judge(module: &str, name: &str) -> Verdict {
    if is_safe(module, name) {
        return Verdict::Safe;
    }
    let root = module.split('.').next().unwrap_or(module);
    let path = format!("{module}.{name}");
    let below = |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let reaches_out = name
        .split('.')
        .any(|part| STDLIB.contains(part) && name.contains('.') || DANGEROUS_NAMES.contains(&part) || part.starts_with("__"));
    if STDLIB.contains(root) || DANGEROUS_PREFIXES.iter().any(|p| below(p)) || reaches_out {
        return Verdict::Dangerous;
    }
    Verdict::Unknown
}

fn is_safe(module: &str, name: &str) -> bool {
    let listed = SAFE.iter().any(|(m, names)| *m == module && names.split(' ').any(|n| n == name));
    let torch_storage = matches!(module, "torch" | "torch.cuda" | "torch.storage")
        && name.strip_suffix("Storage").is_some_and(|n| n.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
    let numpy_scalar = matches!(module, "numpy" | "numpy.dtypes")
        && [
            "int",
            "uint",
            "float",
            "complex",
            "bool",
            "str",
            "bytes",
            "datetime",
            "timedelta",
            "void",
            "object",
            "Int",
            "UInt",
            "Float",
            "Bool",
        ]
        .iter()
        .any(|kind| {
            name.strip_prefix(kind).is_some_and(|rest| {
                let digits = rest.trim_end_matches("DType").trim_end_matches('_');
                digits.chars().all(|c| c.is_ascii_digit())
            })
        });
    listed || torch_storage || numpy_scalar
}

static STDLIB: LazyLock<HashSet<&str>> = LazyLock::new(|| STANDARD_LIBRARY.split_whitespace().collect());

/// Objects that only rebuild data, by module.
const SAFE: &[(&str, &str)] = &[
    ("builtins", BUILTINS),
    ("__builtin__", BUILTINS),
    ("collections", "OrderedDict Counter defaultdict deque"),
    ("copyreg", "_reconstructor __newobj__"),
    ("copy_reg", "_reconstructor __newobj__"),
    ("_codecs", "encode"),
    ("array", "array _array_reconstructor"),
    ("argparse", "Namespace"),
    ("types", "SimpleNamespace"),
    ("datetime", "date datetime time timedelta timezone"),
    ("decimal", "Decimal"),
    ("fractions", "Fraction"),
    ("uuid", "UUID"),
    ("pathlib", "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath"),
    ("pathlib._local", "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath"),
    (
        "torch",
        "Size device dtype layout memory_format Tensor Generator float16 float32 float64 half float double bfloat16 int8 int16 int32 \
         int64 uint8 uint16 uint32 uint64 short int long bool complex32 complex64 complex128 float8_e4m3fn float8_e5m2 \
         float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu qint8 quint8 qint32 strided sparse_coo sparse_csr contiguous_format \
         preserve_format channels_last per_tensor_affine per_channel_affine per_tensor_symmetric per_channel_symmetric",
    ),
    (
        "torch._utils",
        "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter _rebuild_parameter_with_state _rebuild_qtensor \
         _rebuild_sparse_tensor _rebuild_sparse_csr_tensor _rebuild_meta_tensor_no_storage _rebuild_nested_tensor \
         _rebuild_device_tensor_from_numpy _rebuild_device_tensor_from_cpu_tensor _rebuild_wrapper_subclass",
    ),
    ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch.nn.parameter", "Parameter Buffer UninitializedParameter UninitializedBuffer"),
    ("torch.nn", "Parameter"),
    ("torch.jit._pickle", "build_intlist build_tensorlist build_doublelist build_boollist build_tensor_from_id restore_type_tag"),
    ("torch.serialization", "_get_layout"),
    ("torch.torch_version", "TorchVersion"),
    ("numpy", "ndarray dtype matrix generic number bool_ longlong ulonglong intc uintc intp uintp half single double longdouble"),
    ("numpy.core.multiarray", "_reconstruct scalar"),
    ("numpy._core.multiarray", "_reconstruct scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.random._pickle", "__randomstate_ctor __generator_ctor __bit_generator_ctor"),
    ("numpy.random._mt19937", "MT19937"),
    ("numpy.random._pcg64", "PCG64 PCG64DXSM"),
    ("numpy.ma.core", "_mareconstruct MaskedArray"),
];

const BUILTINS: &str = "bool bytearray bytes complex dict float frozenset int list long object range set slice str tuple unicode \
                        xrange Ellipsis NotImplemented";

/// Modules and objects outside the standard library that run code, load code or read pickles for whoever calls them.
const DANGEROUS_PREFIXES: &[&str] = &[
    "IPython",
    "aiohttp",
    "boto3",
    "botocore",
    "cffi",
    "cloudpickle",
    "dill",
    "fabric",
    "fsspec",
    "gevent",
    "httpx",
    "huggingface_hub",
    "jinja2",
    "joblib.load",
    "joblib.numpy_pickle.load",
    "joblib.parallel",
    "jsonpickle",
    "keras.models.load_model",
    "keras.saving",
    "nose",
    "numpy.core._internal",
    "numpy.ctypeslib",
    "numpy.distutils",
    "numpy.f2py",
    "numpy.fromfile",
    "numpy.lib.npyio",
    "numpy.lib.format",
    "numpy.load",
    "numpy.loads",
    "numpy.memmap",
    "numpy.testing",
    "pandas.eval",
    "pandas.io",
    "pandas.read_pickle",
    "paramiko",
    "pexpect",
    "pip",
    "pkg_resources",
    "ptyprocess",
    "pytest",
    "requests",
    "setuptools",
    "sh",
    "tensorflow.python.ops.script_ops",
    "torch._C",
    "torch._dynamo",
    "torch._inductor",
    "torch._jit_internal",
    "torch._ops",
    "torch._utils_internal",
    "torch._weights_only_unpickler",
    "torch.classes",
    "torch.compile",
    "torch.distributed",
    "torch.fx",
    "torch.hub",
    "torch.jit",
    "torch.load",
    "torch.multiprocessing",
    "torch.ops",
    "torch.package",
    "torch.serialization",
    "torch.storage._load_from_bytes",
    "torch.testing",
    "torch.utils",
    "urllib3",
    "websockets",
    "wheel",
    "yaml",
];

/// Names that are dangerous in any module, since modules hand on what they import.
const DANGEROUS_NAMES: &[&str] = &[
    "builtins",
    "ctypes",
    "eval",
    "exec",
    "execfile",
    "getattr",
    "importlib",
    "load_module",
    "os",
    "pickle",
    "popen",
    "posix",
    "pty",
    "runpy",
    "setattr",
    "shutil",
    "socket",
    "subprocess",
    "sys",
    "system",
];

#[cfg(test)]
mod tests {
    use super::{Verdict::*, judge};

    #[test]
    fn data_is_safe() {
        for (module, name) in [
            ("collections", "OrderedDict"),
            ("torch", "BFloat16Storage"),
            ("torch", "bfloat16"),
            ("torch._utils", "_rebuild_tensor_v2"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "float32"),
            ("numpy", "bool_"),
            ("numpy.dtypes", "Float32DType"),
            ("__builtin__", "set"),
        ] {
            assert_eq!(judge(module, name), Safe, "{module}.{name}");
        }
    }

    #[test]
    fn code_is_dangerous() {
        for (module, name) in [
            ("os", "system"),
            ("builtins", "print"),
            ("collections", "namedtuple"),
            ("collections", "abc.sys.modules"),
            ("torch.serialization", "load"),
            ("torch.fx.graph_module", "reduce_graph_module"),
            ("torch", "os.system"),
            ("numpy.testing._private.utils", "runstring"),
            ("sklearn.utils", "os"),
            ("x", "y.__globals__"),
            ("some.module", "subprocess.run"),
            ("httplib", "HTTPSConnection"),
        ] {
            assert_eq!(judge(module, name), Dangerous, "{module}.{name}");
        }
    }

    #[test]
    fn the_rest_is_unknown() {
        for (module, name) in [
            ("sklearn.tree._classes", "DecisionTreeClassifier"),
            ("torch.nn.modules.linear", "Linear"),
            ("__main__", "Net"),
            ("shapes", "Circle"),
        ] {
            assert_eq!(judge(module, name), Unknown, "{module}.{name}");
        }
    }
}
