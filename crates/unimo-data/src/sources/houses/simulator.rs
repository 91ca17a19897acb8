//! A closed loop: an agent in a generated house goes where a model says.

use std::f64::consts::TAU;
use std::sync::Arc;

use unimo_batch::Walks;

use crate::sources::houses::plan::{CLASS_COUNT, House};
use crate::sources::houses::route::{Action, HEADINGS, STEP, Ways, after};
use crate::sources::houses::{Houses, TURNS, Task, view};
use crate::sources::splits::Split;
use crate::walks::{Camera, Pose, Rows, View, WalkConfig};

/// An episode of an agent that is told where to go. Its map, its views and the targets of its decisions are made as those of recorded episodes.
pub struct Simulator {
    task: Task,
    camera: Camera,
    config: WalkConfig,
    rows: Rows,
    pose: Pose,
    /// Where it has been, first of all at the start, without its turns.
    places: Vec<[f64; 2]>,
    steps: usize,
    collisions: usize,
}

/// What came of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acted {
    /// Steps and turns. An agent that cannot come nearer to its waypoint waits for one step.
    pub steps: usize,
    /// Steps against a wall or a thing.
    pub collisions: usize,
}

/// An episode that has ended, in metres.
#[derive(Debug, Clone, PartialEq)]
pub struct Walked {
    /// Where the agent has been: the start first, where it stopped last.
    pub places: Vec<[f64; 2]>,
    /// From each of these places to the goal, along the shortest way.
    pub to_goal: Vec<f64>,
    /// The shortest way from the start to the goal.
    pub reference: Vec<[f64; 2]>,
    /// The goal.
    pub goal: [f64; 2],
}

impl Simulator {
    /// The episode of a sample, whose agent has looked around and is about to decide.
    ///
    /// # Errors
    ///
    /// The agent's map is too small for its place.
    pub fn new(
        houses: &Houses,
        split: Split,
        index: usize,
        config: &WalkConfig,
    ) -> Result<Self, String> {
        let (task, _) = houses.task(split, index);
        let camera = houses.camera();
        let start = task.poses[0];
        let ground = (Some(Arc::new(task.house.ground())), CLASS_COUNT);
        let mut simulator = Self {
            rows: Rows::new(config, camera, start, Some(&task.path), ground),
            camera,
            config: *config,
            pose: start,
            places: vec![start.place()],
            steps: 0,
            collisions: 0,
            task,
        };
        for turn in 0..TURNS {
            simulator.pose = simulator.task.poses[turn];
            simulator.look()?;
        }
        simulator.pose = simulator.task.poses[TURNS];
        simulator.steps = TURNS;
        let view = simulator.look()?;
        simulator.decide(&view);
        Ok(simulator)
    }

    /// What the agent is told.
    pub fn instruction(&self) -> &str {
        &self.task.instruction
    }

    /// The decisions so far, as the only sample of a batch. The last is to be taken now.
    pub fn walks(&self) -> &Walks {
        self.rows.walks()
    }

    /// Where the agent stands.
    pub fn pose(&self) -> Pose {
        self.pose
    }

    /// Steps and turns so far, those at the start included.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Steps against a wall or a thing so far.
    pub fn collisions(&self) -> usize {
        self.collisions
    }

    /// Goes towards a waypoint, to the right and ahead in shares of half the map, for the steps between two decisions. Its low level knows the house and
    /// takes the shortest way to the open cell nearest to the waypoint. A waypoint that is no number, or that no way leads to, lets the agent wait for a
    /// step. Then it is about to decide again.
    ///
    /// # Errors
    ///
    /// The agent leaves its map.
    pub fn act(&mut self, waypoint: [f32; 2]) -> Result<Acted, String> {
        let target = self.target(waypoint);
        let house = Arc::clone(&self.task.house);
        let goal = nearest_open(&house, target);
        let ways = goal.map(|goal| Ways::to(&house, goal, Some(self.pose.place())));
        self.go(|pose| ways.as_ref()?.action(&house, pose))
    }

    /// As [`act`](Self::act), by a low level that does not know the house: it turns until it looks to the waypoint, then goes straight on, against
    /// whatever is there.
    ///
    /// # Errors
    ///
    /// The agent leaves its map.
    pub fn act_straight(&mut self, waypoint: [f32; 2]) -> Result<Acted, String> {
        let target = self.target(waypoint);
        self.go(|pose| straight(pose, target))
    }

    fn target(&self, waypoint: [f32; 2]) -> [f64; 2] {
        let half = self.config.half();
        let metres = waypoint.map(|share| f64::from(share) * half);
        self.pose.place_of(metres)
    }

    fn go(&mut self, next: impl Fn(Pose) -> Option<Action>) -> Result<Acted, String> {
        let mut acted = Acted {
            steps: 0,
            collisions: 0,
        };
        let house = Arc::clone(&self.task.house);
        let mut view = None;
        for _ in 0..self.config.every {
            let Some(action) = next(self.pose) else { break };
            let (pose, collided) = after(&house, self.pose, action);
            if pose.place() != self.pose.place() {
                self.places.push(pose.place());
            }
            self.pose = pose;
            acted.steps += 1;
            acted.collisions += usize::from(collided);
            view = Some(self.look()?);
        }
        acted.steps = acted.steps.max(1);
        self.steps += acted.steps;
        self.collisions += acted.collisions;
        let view = match view {
            Some(view) => view,
            None => self.look()?,
        };
        self.decide(&view);
        Ok(acted)
    }

    /// Puts what the agent sees into its map.
    fn look(&mut self) -> Result<View, String> {
        let view = view::seen(&self.task.house, self.pose, &self.camera);
        self.rows.see(self.pose, &view)?;
        Ok(view)
    }

    fn decide(&mut self, view: &View) {
        let place = self.pose.place();
        let path = self.task.ways.path(&self.task.house, place);
        self.rows.decide(self.pose, view, path.as_deref());
    }

    /// Ends the episode where the agent stands.
    pub fn stop(self) -> Walked {
        let to_goal = self.places.iter().map(|place| {
            let metres = self.task.ways.metres(&self.task.house, *place);
            metres.unwrap_or(f64::INFINITY)
        });
        Walked {
            to_goal: to_goal.collect(),
            places: self.places,
            goal: self.task.ways.goal(),
            reference: self.task.path,
        }
    }
}

/// The open cell nearest to a place; `None` if the place is none.
fn nearest_open(house: &House, [x, y]: [f64; 2]) -> Option<[i64; 2]> {
    if !x.is_finite() || !y.is_finite() {
        return None;
    }
    let open = (0..house.tiles.len()).filter(|at| house.open[*at]);
    let cells = open.map(|at| [(at / house.columns) as i64, (at % house.columns) as i64]);
    let away = |cell: &[i64; 2]| {
        let [to_x, to_y] = House::place_of(*cell);
        (to_x - x).hypot(to_y - y)
    };
    cells.min_by(|a, b| away(a).total_cmp(&away(b)))
}

/// What an agent does that sees nothing but its waypoint.
fn straight(pose: Pose, target: [f64; 2]) -> Option<Action> {
    let [right, ahead] = pose.sees(target);
    let away = right.hypot(ahead);
    if away.is_nan() || away <= STEP {
        return None;
    }
    let left = (-right).atan2(ahead);
    let half_a_turn = TAU / HEADINGS as f64 / 2.0;
    Some(if left > half_a_turn {
        Action::Left
    } else if left < -half_a_turn {
        Action::Right
    } else {
        Action::Ahead
    })
}
