//! Colours of lines and of cells.

/// Number of colours that [`Colour::Slot`] tells apart.
pub const SLOTS: usize = 8;

/// Colour of a line, by its place in a list of things that stay the same across charts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// The colour of text, for the one line that sums up the others or stands alone.
    Ink,
    /// A colour of the categorical palette; numbers from [`SLOTS`] on start over.
    Slot(usize),
}

impl Colour {
    pub(super) fn class(self) -> String {
        match self {
            Self::Ink => "ink".to_owned(),
            Self::Slot(slot) => format!("s{}", slot % SLOTS + 1),
        }
    }
}

/// The viridis colour map (van der Walt and Smith 2015) at `place` in 0 to 1: perceptually uniform, readable with colour
/// vision deficiencies and in grey. Places outside get the colours of the ends.
pub fn viridis(place: f64) -> [u8; 3] {
    const STOPS: [[u8; 3]; 11] = [
        [0x44, 0x01, 0x54],
        [0x48, 0x24, 0x75],
        [0x41, 0x44, 0x87],
        [0x35, 0x5f, 0x8d],
        [0x2a, 0x78, 0x8e],
        [0x21, 0x91, 0x8c],
        [0x22, 0xa8, 0x84],
        [0x44, 0xbf, 0x70],
        [0x7a, 0xd1, 0x51],
        [0xbd, 0xdf, 0x26],
        [0xfd, 0xe7, 0x25],
    ];
    let last = STOPS.len() - 1;
    let at = if place.is_finite() {
        place.clamp(0.0, 1.0) * last as f64
    } else {
        0.0
    };
    let index = (at as usize).min(last - 1);
    let share = at - index as f64;
    let (from, to) = (STOPS[index], STOPS[index + 1]);
    std::array::from_fn(|channel| {
        (f64::from(from[channel]) * (1.0 - share) + f64::from(to[channel]) * share).round() as u8
    })
}

pub(super) fn hex([r, g, b]: [u8; 3]) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// Relative luminance of an sRGB colour (WCAG 2.2).
pub(super) fn luminance(colour: [u8; 3]) -> f64 {
    let [r, g, b] = colour.map(|channel| {
        let value = f64::from(channel) / 255.0;
        if value <= 0.04045 {
            value / 12.92
        } else {
            ((value + 0.055) / 1.055).powf(2.4)
        }
    });
    0.2126 * r + 0.7152 * g + 0.0722 * b
}

/// Black or white, whichever stands out more from `colour`.
pub(super) fn text_on(colour: [u8; 3]) -> &'static str {
    let own = luminance(colour) + 0.05;
    if 1.05 / own >= own / 0.05 {
        "#fff"
    } else {
        "#000"
    }
}
