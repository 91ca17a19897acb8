//! Shapes, colours and places.

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Shape {
    Circle,
    Square,
    Triangle,
    Star,
    Cross,
    Ring,
    Diamond,
    Heart,
}

impl Shape {
    pub(super) const ALL: [Self; 8] = [
        Self::Circle,
        Self::Square,
        Self::Triangle,
        Self::Star,
        Self::Cross,
        Self::Ring,
        Self::Diamond,
        Self::Heart,
    ];

    pub(super) fn name(self, count: usize) -> &'static str {
        let (one, many) = match self {
            Self::Circle => ("circle", "circles"),
            Self::Square => ("square", "squares"),
            Self::Triangle => ("triangle", "triangles"),
            Self::Star => ("star", "stars"),
            Self::Cross => ("cross", "crosses"),
            Self::Ring => ("ring", "rings"),
            Self::Diamond => ("diamond", "diamonds"),
            Self::Heart => ("heart", "hearts"),
        };
        if count == 1 { one } else { many }
    }

    /// Whether a point is inside the shape of radius 1; y points down.
    pub(super) fn contains(self, x: f32, y: f32) -> bool {
        let square = |half: f32| x.abs() <= half && y.abs() <= half;
        match self {
            Self::Circle => x * x + y * y <= 1.0,
            Self::Square => square(0.85),
            Self::Triangle => (-0.95..=0.75).contains(&y) && x.abs() <= (y + 0.95) * 0.588,
            Self::Star => {
                // There are five tips. The angle is folded into half a tip, where the edge is a straight line from the tip at
                // radius 1 to the notch at radius NOTCH.
                const NOTCH: f32 = 0.45;
                let step = std::f32::consts::PI / 5.0;
                let angle = x.atan2(-y).rem_euclid(2.0 * step);
                let angle = angle.min(2.0 * step - angle);
                let radius = x.hypot(y);
                let (px, py) = (radius * angle.cos(), radius * angle.sin());
                let (nx, ny) = (NOTCH * step.cos(), NOTCH * step.sin());
                (1.0 - px) * ny - py * (1.0 - nx) >= 0.0
            }
            Self::Cross => square(0.95) && x.abs().min(y.abs()) <= 0.3,
            Self::Ring => (0.3..=1.0).contains(&(x * x + y * y)),
            Self::Diamond => x.abs() * 1.35 + y.abs() <= 1.0,
            Self::Heart => {
                let (x, y) = (x * 1.2, -y * 1.15 + 0.15);
                let base = x * x + y * y - 1.0;
                base * base * base - x * x * y * y * y <= 0.0
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Colour {
    pub(super) name: &'static str,
    pub(super) rgb: [u8; 3],
}

pub(super) const fn colour(name: &'static str, rgb: [u8; 3]) -> Colour {
    Colour { name, rgb }
}

/// Colours of objects.
pub(super) const COLOURS: [Colour; 8] = [
    colour("red", [215, 30, 35]),
    colour("green", [25, 150, 50]),
    colour("blue", [35, 65, 215]),
    colour("yellow", [245, 220, 20]),
    colour("purple", [135, 35, 165]),
    colour("orange", [245, 130, 15]),
    colour("white", [252, 252, 252]),
    colour("black", [12, 12, 12]),
];

/// The name of one object of each colour and shape.
pub(super) fn name(colour: Colour, shape: Shape) -> String {
    format!("{} {}", colour.name, shape.name(1))
}

/// The names of all objects.
pub(super) fn names() -> Vec<String> {
    let shapes = |colour: &Colour| Shape::ALL.map(|shape| name(*colour, shape));
    COLOURS.iter().flat_map(shapes).collect()
}

/// Colours of grounds; no object has one of them.
pub(super) const GROUNDS: [Colour; 4] = [
    colour("grey", [140, 140, 140]),
    colour("beige", [222, 202, 165]),
    colour("pink", [245, 165, 195]),
    colour("teal", [60, 145, 150]),
];

/// How the two groups are separated: the words for where the first is, as seen from the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Relation {
    LeftOf,
    RightOf,
    Above,
    Below,
}

impl Relation {
    pub(super) const ALL: [Self; 4] = [Self::LeftOf, Self::RightOf, Self::Above, Self::Below];

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::LeftOf => "to the left of",
            Self::RightOf => "to the right of",
            Self::Above => "above",
            Self::Below => "below",
        }
    }

    pub(super) fn reversed(self) -> Self {
        match self {
            Self::LeftOf => Self::RightOf,
            Self::RightOf => Self::LeftOf,
            Self::Above => Self::Below,
            Self::Below => Self::Above,
        }
    }
}

/// Where a single object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Corner {
    TopLeft,
    TopRight,
    BottomLeft,
    BottomRight,
    Centre,
}

impl Corner {
    pub(super) const ALL: [Self; 5] = [
        Self::TopLeft,
        Self::TopRight,
        Self::BottomLeft,
        Self::BottomRight,
        Self::Centre,
    ];

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::TopLeft => "in the top left corner",
            Self::TopRight => "in the top right corner",
            Self::BottomLeft => "in the bottom left corner",
            Self::BottomRight => "in the bottom right corner",
            Self::Centre => "in the centre",
        }
    }

    pub(super) fn centre(self) -> (f32, f32) {
        match self {
            Self::TopLeft => (0.25, 0.25),
            Self::TopRight => (0.75, 0.25),
            Self::BottomLeft => (0.25, 0.75),
            Self::BottomRight => (0.75, 0.75),
            Self::Centre => (0.5, 0.5),
        }
    }
}
