//! How a value is written in a page. A number with a fraction says how many digits it wants, or the build fails.

use serde_json::Value;

/// Writes `value` by the formats behind it, as in `| digits 2` or `| GB 3`.
///
/// | format | for | example |
/// | --- | --- | --- |
/// | (none) | whole numbers, texts | `151,936`, `hello` |
/// | `plain` | whole numbers, as in shapes and ids | `151936` |
/// | `digits N` | digits behind the point | `0.25` |
/// | `sig N` | significant digits | `1.2e-5` |
/// | `percent N` | a share | `26 %` |
/// | `KB N` … `GiB N` | bytes | `1.19 GB` |
/// | `quote` | texts, with quotes and escapes | `"\n"` |
/// | `bf16` | a value's 16 bits: sign, exponent, fraction | `0 01111111 0000000` |
///
/// An array is written element by element, in brackets.
pub fn show(value: &Value, formats: &[&str]) -> Result<String, String> {
    if let Value::Array(all) = value {
        let formats = if formats.is_empty() && all.iter().all(Value::is_i64) { &["plain"] } else { formats };
        let all: Vec<String> = all.iter().map(|element| show(element, formats)).collect::<Result<_, _>>()?;
        return Ok(format!("[{}]", all.join(", ")));
    }
    let format = match formats {
        [] => return default(value),
        [format] => *format,
        _ => return Err("one format is enough".into()),
    };
    let (name, digits) = match format.split_once(' ') {
        None => (format, None),
        Some((name, digits)) => (name, Some(digits.parse::<usize>().map_err(|_| format!("`{format}`: how many?"))?)),
    };
    let number = || value.as_f64().ok_or_else(|| format!("`{format}`: {value} is no number"));
    let digits_or = |default| digits.unwrap_or(default);
    match name {
        "plain" => match value.as_i64() {
            Some(whole) => Ok(whole.to_string()),
            None => Err(format!("`plain`: {value} is not whole")),
        },
        "quote" => match value {
            Value::String(text) => Ok(format!("{text:?}")),
            other => Err(format!("`quote`: {other} is no text")),
        },
        "digits" => {
            let text = format!("{:.*}", digits.ok_or("how many digits?")?, number()?);
            let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
            let point = if fraction.is_empty() { "" } else { "." };
            Ok(format!("{}{point}{fraction}", thousands(whole)))
        }
        "sig" => {
            let (digits, number) = (digits.ok_or("how many digits?")?.max(1), number()?);
            Ok(format!("{:.*e}", digits - 1, number))
        }
        "percent" => Ok(format!("{:.*}\u{a0}%", digits_or(0), number()? * 100.0)),
        "bf16" => {
            let bits = (number()? as f32).to_bits();
            if bits & 0xffff != 0 || f64::from(f32::from_bits(bits)) != number()? {
                return Err(format!("{value} is no bf16 value"));
            }
            let bits = format!("{:016b}", bits >> 16);
            Ok(format!("{} {} {}", &bits[..1], &bits[1..9], &bits[9..]))
        }
        unit => {
            let power = |base: f64, prefixes: &str| Some(base.powi(prefixes.find(unit.get(..1)?)? as i32 + 1));
            let size = match unit.get(1..) {
                Some("B") => power(1000.0, "kMGT"),
                Some("iB") => power(1024.0, "KMGT"),
                _ => None,
            };
            let size = size.ok_or_else(|| format!("there is no format `{unit}`"))?;
            Ok(format!("{:.*}\u{a0}{unit}", digits_or(0), number()? / size))
        }
    }
}

fn default(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(bool) => Ok(bool.to_string()),
        Value::Number(number) if number.is_i64() => Ok(thousands(&number.to_string())),
        Value::Number(number) if number.as_f64().is_some_and(|n| n.fract() == 0.0 && n.abs() < 1e15) => {
            Ok(thousands(&format!("{:.0}", number.as_f64().unwrap_or_default())))
        }
        Value::Number(number) => Err(format!("{number}: say how many digits, as in `| digits 2`")),
        Value::Null | Value::Object(_) | Value::Array(_) => Err(format!("{value} is not one value")),
    }
}

/// `151936` as `151,936`.
fn thousands(whole: &str) -> String {
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    format!("{sign}{out}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_written_as_asked() {
        for (value, format, text) in [
            (json!(151_936), "", "151,936"),
            (json!(-1234), "", "-1,234"),
            (json!(999), "", "999"),
            (json!(10000.0), "", "10,000"),
            (json!(151_936), "plain", "151936"),
            (json!([785, 6722]), "", "[785, 6722]"),
            (json!([0.5, 0.25]), "digits 1", "[0.5, 0.2]"),
            (json!(12345.678), "digits 2", "12,345.68"),
            (json!(12345.678), "digits 0", "12,346"),
            (json!(0.000_012_34), "sig 2", "1.2e-5"),
            (json!(0.2612), "percent", "26\u{a0}%"),
            (json!(0.2612), "percent 1", "26.1\u{a0}%"),
            (json!(1_192_099_840_u64), "GB 3", "1.192\u{a0}GB"),
            (json!(114_688), "KiB", "112\u{a0}KiB"),
            (json!(114_688), "kB", "115\u{a0}kB"),
            (json!(" a\n"), "quote", "\" a\\n\""),
            (json!(1.0), "bf16", "0 01111111 0000000"),
            (json!(-0.75), "bf16", "1 01111110 1000000"),
        ] {
            let formats: Vec<&str> = if format.is_empty() { vec![] } else { vec![format] };
            assert_eq!(show(&value, &formats).unwrap(), text);
        }
    }

    #[test]
    fn nothing_is_rounded_or_shown_unasked() {
        for (value, format) in [
            (json!(0.1), ""),
            (json!(null), ""),
            (json!({}), ""),
            (json!(0.5), "plain"),
            (json!("a"), "digits 2"),
            (json!(1), "digits"),
            (json!(1), "parsecs 2"),
            (json!(1), "GB x"),
            (json!(0.1), "bf16"),
        ] {
            let formats: Vec<&str> = if format.is_empty() { vec![] } else { vec![format] };
            assert!(show(&value, &formats).is_err(), "{value} | {format}");
        }
    }
}
