//! Numbers, shares, times and counts as a reader wants them.

/// How values are written on axes, in legends and in the read-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Plain numbers, in powers of ten where they are very small or large.
    #[default]
    Number,
    /// A share from 0 to 1, written as 0 % to 100 %.
    Percent,
}

impl Format {
    /// One value with the digits a reader wants: three to four significant ones.
    pub fn value(self, value: f64) -> String {
        match self {
            _ if !value.is_finite() => "not finite".to_owned(),
            Self::Number => number(value),
            Self::Percent => {
                let percent = 100.0 * value;
                let decimals = if percent != 0.0 && percent.abs() < 1.0 {
                    2
                } else {
                    1
                };
                format!("{percent:.decimals$}\u{a0}%")
            }
        }
    }

    pub(crate) fn tick(self, value: f64, step: f64, largest: f64) -> String {
        match self {
            Self::Number => tick_label(value, step, largest),
            Self::Percent => format!(
                "{}\u{a0}%",
                tick_label(100.0 * value, 100.0 * step, 100.0 * largest)
            ),
        }
    }
}

/// A number with three to four significant digits: `0.0421`, `2.310`, `1,204`, `1.2e-5`.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        "not finite".to_owned()
    } else if value == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e7).contains(&size) {
        trimmed_exponent(value, 2)
    } else if size >= 1000.0 || value.fract() == 0.0 {
        grouped(value)
    } else {
        let decimals = (2 - size.log10().floor() as i32).clamp(1, 5) as usize;
        format!("{value:.decimals$}")
    }
}

/// A whole number with its thousands apart: `31,204,352`. Fractions are rounded.
pub fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0
            && (digits.len() - index).is_multiple_of(3)
            && digits.chars().all(|digit| digit.is_ascii_digit())
        {
            out.push(',');
        }
        out.push(digit);
    }
    if value < 0.0 && digits != "0" {
        format!("-{out}")
    } else {
        out
    }
}

/// The fewest digits that tell the value: `5`, `0.25`, `20k`, `1e-4`.
pub(crate) fn short(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e7).contains(&size) {
        trimmed_exponent(value, 1)
    } else if size >= 10_000.0 {
        format!("{}k", trimmed(&format!("{:.1}", value / 1000.0)))
    } else {
        let decimals = (1 - size.log10().floor() as i32).clamp(0, 4) as usize;
        trimmed(&format!("{value:.decimals$}"))
    }
}

pub(crate) fn tick_label(value: f64, step: f64, largest: f64) -> String {
    let decimals = |step: f64| (-(step.abs().log10() + 1e-9).floor()).clamp(0.0, 12.0) as usize;
    if value == 0.0 {
        "0".to_owned()
    } else if step <= 0.0 {
        number(value)
    } else if !(1e-3..1e9).contains(&largest) {
        let places = (value.abs().log10() + 1e-9).floor() - (step.log10() + 1e-9).floor();
        trimmed_exponent(value, places.clamp(0.0, 12.0) as usize)
    } else if largest >= 1e6 {
        format!("{:.*}M", decimals(step / 1e6), value / 1e6)
    } else if largest >= 1e4 {
        format!("{:.*}k", decimals(step / 1e3), value / 1e3)
    } else if step >= 1.0 {
        grouped(value)
    } else {
        format!("{value:.*}", decimals(step))
    }
}

fn trimmed_exponent(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => format!("{}e{exponent}", trimmed(mantissa)),
        None => text,
    }
}

fn trimmed(text: &str) -> String {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text.to_owned()
    }
}

/// `2:07:31 h`, `3:05 min` or `42 s`.
pub fn duration(time: f64) -> String {
    let whole = time.max(0.0).round() as u64;
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{rest:02} h")
    } else if minutes > 0 {
        format!("{minutes}:{rest:02} min")
    } else {
        format!("{rest} s")
    }
}

pub(crate) fn seconds(time: f64) -> String {
    if time < 1.0 {
        format!("{} ms", number(1000.0 * time))
    } else {
        format!("{} s", number(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_for_readers() {
        assert_eq!(
            [42.4, 185.0, 7651.0, -1.0].map(duration),
            ["42 s", "3:05 min", "2:07:31 h", "0 s"]
        );
    }
}
