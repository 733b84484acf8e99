//! Numbers as people read them.

use crate::figures::Reading;

/// A value with its unit, to three significant digits: `4.72 MB`, `0.0113 nats`, `96.4 %`.
pub(super) fn with_unit(value: f64, unit: &str) -> String {
    match unit {
        "bytes" => bytes(value),
        "share" => format!("{} %", significant(value * 100.0)),
        "" => significant(value),
        "findings" | "pairs" | "results" if value == 1.0 => format!("1 {}", unit.strip_suffix('s').unwrap_or(unit)),
        _ => format!("{} {unit}", significant(value)),
    }
}

/// A limit with its unit, in the digits in which it was written.
pub(super) fn as_written(value: f64, unit: &str) -> String {
    if unit == "bytes" || unit == "share" || value == value.trunc() || value.abs() < 1e-6 {
        with_unit(value, unit)
    } else {
        format!("{value} {unit}").trim_end().to_owned()
    }
}

/// A reading as `value` and `error`, both to the same decimals and without the unit where the table's head can name it.
pub(super) fn parts(r: Reading, unit: &str) -> (String, Option<String>) {
    let (scale, suffix) = if unit == "share" { (100.0, " %") } else { (1.0, "") };
    let (value, error) = (r.value * scale, r.standard_error.map(|e| e * scale));
    match error.filter(|e| e.is_finite() && value.is_finite()) {
        _ if unit == "bytes" => (bytes(value), None),
        None => (format!("{}{suffix}", significant(value)), None),
        Some(error) => {
            // As many decimals as give the value three digits, or the error one.
            let decimals = decimals(value, 3).max(decimals(error, 1)).min(6);
            (format!("{value:.decimals$}{suffix}"), Some(format!("± {error:.decimals$}")))
        }
    }
}

/// The same in one piece, with the unit.
pub(super) fn reading(r: Reading, unit: &str) -> String {
    match parts(r, unit) {
        (_, None) => with_unit(r.value, unit),
        (value, Some(error)) => match unit {
            "share" | "" => format!("{value} {error}"),
            _ => format!("{value} {error} {unit}"),
        },
    }
}

/// Decimal units: a megabyte is a million bytes.
pub(super) fn bytes(value: f64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut scaled, mut unit) = (value, 0);
    while scaled.abs() >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    format!("{} {}", significant(scaled), UNITS[unit])
}

/// Three significant digits, whole numbers in full, no exponent above 10⁻⁴.
pub(super) fn significant(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "not a number"
        } else if value > 0.0 {
            "∞"
        } else {
            "−∞"
        }
        .to_owned();
    }
    if value == value.trunc() && value.abs() < 1e15 {
        return grouped(value);
    }
    if value.abs() < 1e-4 {
        return scientific(value);
    }
    let decimals = decimals(value, 3);
    if decimals == 0 { grouped(value.round()) } else { format!("{value:.decimals$}") }
}

/// `4.7 × 10⁻⁶`
fn scientific(value: f64) -> String {
    let text = format!("{value:.1e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let raised: String = exponent.chars().map(raised).collect();
    format!("{mantissa} × 10{raised}")
}

fn raised(digit: char) -> char {
    digit.to_digit(10).and_then(|d| "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().nth(d as usize)).unwrap_or('⁻')
}

fn decimals(value: f64, digits: i32) -> usize {
    if value == 0.0 {
        return 0;
    }
    // The exponent after rounding: 0.9996 has that of 1.00.
    let rounded = format!("{:.*e}", digits as usize - 1, value);
    let magnitude: i32 = rounded.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    (digits - 1 - magnitude).clamp(0, 12) as usize
}

/// Whole number with thin spaces between groups of three from five digits on.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let sign = if value < 0.0 { "−" } else { "" };
    if digits.len() < 5 {
        return format!("{sign}{digits}");
    }
    let mut out = String::from(sign);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        assert_eq!(with_unit(4_718_592.0, "bytes"), "4.72 MB");
        assert_eq!(with_unit(999_600.0, "bytes"), "1.00 MB");
        assert_eq!(with_unit(0.011_34, "nats"), "0.0113 nats");
        assert_eq!(with_unit(0.0, "nats"), "0 nats");
        assert_eq!(with_unit(0.9643, "share"), "96.4 %");
        assert_eq!(with_unit(1.0, "pairs"), "1 pair");
        assert_eq!(with_unit(3.0, "pairs"), "3 pairs");
        assert_eq!(with_unit(1234.5, "tokens/s"), "1235 tokens/s");
        assert_eq!(with_unit(123_456.0, ""), "123\u{202f}456");
        assert_eq!(significant(0.000_004_71), "4.7 × 10⁻⁶");
        assert_eq!(significant(f64::NAN), "not a number");
        assert_eq!(significant(f64::INFINITY), "∞");
    }

    #[test]
    fn errors_have_the_precision_of_their_value() {
        let r = |value, e| Reading { value, standard_error: Some(e) };
        assert_eq!(reading(r(39.146, 0.713), ""), "39.1 ± 0.7");
        assert_eq!(reading(r(0.011_34, 0.000_21), "nats"), "0.0113 ± 0.0002 nats");
        assert_eq!(reading(r(0.9643, 0.0026), "share"), "96.4 % ± 0.3");
        assert_eq!(reading(r(1.0, 0.0), "× reference"), "1.00 ± 0.00 × reference");
        assert_eq!(reading(r(f64::NAN, 0.1), "nats"), "not a number nats");
    }
}
