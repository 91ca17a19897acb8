use std::collections::HashSet;

use super::*;
use crate::sources::houses::plan::{COLOURS, KINDS, Tile};
use crate::sources::houses::words::{Met, met};
use crate::walks::{WalkConfig, length, made};

fn houses() -> Houses {
    Houses::new(HousesConfig {
        seed: 5,
        train: 12,
        val: 4,
        test: 4,
        paths: 2,
        sides: [40, 56],
        rooms: [4, 6],
        size: 32,
        ..HousesConfig::default()
    })
}

fn small() -> WalkConfig {
    WalkConfig {
        cells: 32,
        cell: 0.25,
        world: 160,
        reach: 8.0,
        ..WalkConfig::default()
    }
}

fn all(houses: &Houses) -> impl Iterator<Item = (Split, usize)> {
    Split::ALL
        .into_iter()
        .flat_map(|split| (0..houses.len(split)).map(move |at| (split, at)))
}

#[test]
fn a_path_leads_over_free_ground_to_what_the_words_say() {
    let houses = houses();
    for (split, index) in all(&houses) {
        let (task, _) = houses.task(split, index);
        let house = &task.house;
        for pose in &task.poses {
            let [row, column] = House::cell_of(pose.place());
            assert!(house.is_free(row, column));
        }
        let steps = task.poses.len() - 1;
        assert!((25..=200).contains(&steps), "{steps}");
        // It looks around once, where it starts.
        let around: HashSet<u64> = task.poses[..TURNS]
            .iter()
            .map(|p| p.heading.to_bits())
            .collect();
        assert_eq!(around.len(), TURNS);
        assert_eq!(task.poses[0], task.poses[TURNS]);
        // Nothing stands in the way of the shortest path, and the agent's own is hardly longer.
        assert!(
            task.path
                .windows(2)
                .all(|pair| house.is_clear(pair[0], pair[1]))
        );
        let places: Vec<[f64; 2]> = task.poses.iter().map(|pose| pose.place()).collect();
        let (own, shortest) = (length(&places), length(&task.path));
        assert!(own < shortest * 1.1 + 0.3, "{own} {shortest}");
        let end = task.poses[steps].place();
        assert!(task.ways.metres(house, end).unwrap() <= 0.3);
        // The last words name the thing beside the goal, of which there is one.
        let named: Vec<_> = house
            .things
            .iter()
            .filter(|thing| {
                task.instruction
                    .ends_with(&format!(" the {}", thing.name()))
            })
            .collect();
        assert_eq!(named.len(), 1, "{}", task.instruction);
        assert!(named[0].area.distance(task.ways.goal()) < 1.0);
    }
}

#[test]
fn doors_are_named_in_order() {
    let houses = houses();
    for (split, index) in all(&houses) {
        let (task, _) = houses.task(split, index);
        let goal = task.house.things.iter().position(|thing| {
            task.instruction
                .ends_with(&format!(" the {}", thing.name()))
        });
        let met = met(&task.house, &task.path, goal.unwrap());
        let rooms: Vec<usize> = task
            .path
            .iter()
            .filter_map(|place| {
                let [row, column] = House::cell_of(*place);
                match task.house.tile(row, column) {
                    Tile::Floor(room) => Some(usize::from(room)),
                    _ => None,
                }
            })
            .collect();
        let (first, last) = (rooms[0], rooms[rooms.len() - 1]);
        // Each door leads from the room before it to the next.
        let mut room = first;
        let mut words = task.instruction.as_str();
        for met in met {
            let name = match met {
                Met::Door(door) => {
                    let door = task.house.doors[door];
                    let other = door.rooms.iter().find(|other| **other != room);
                    assert!(door.rooms.contains(&room));
                    room = *other.unwrap();
                    format!("the {} door", COLOURS[door.colour].0)
                }
                Met::Thing(thing, _) => {
                    assert_eq!(task.house.things[thing].room, room);
                    task.house.things[thing].name()
                }
            };
            words = words.split_once(&name).unwrap().1;
        }
        assert_eq!(room, last);
    }
}

#[test]
fn no_held_out_house_is_trained_on() {
    let houses = houses();
    let keys = |split: Split| -> HashSet<u64> {
        let own = (0..houses.len(split)).map(|at| houses.task(split, at).0.house.key());
        own.collect()
    };
    let (train, val, test) = (keys(Split::Train), keys(Split::Val), keys(Split::Test));
    assert!(train.is_disjoint(&val) && train.is_disjoint(&test) && val.is_disjoint(&test));
    // Almost always, the paths of a sample's house are in one house.
    assert!(train.len() >= 12 && val.len() >= 4);
}

#[test]
fn samples_are_a_function_of_seed_and_index() {
    let (one, other) = (houses(), houses());
    for index in [0, 3, 7] {
        let record = |houses: &Houses| {
            let recorded = houses.walk(Split::Val, index).unwrap().unwrap();
            made(&*recorded, &small()).unwrap()
        };
        let first = record(&one);
        assert_eq!(first, record(&other));
        assert_eq!(
            one.captions(Split::Val, index),
            other.captions(Split::Val, index)
        );
    }
    let config = HousesConfig {
        seed: 6,
        ..one.config
    };
    let third = Houses::new(config);
    assert_ne!(one.captions(Split::Val, 0), third.captions(Split::Val, 0));
}

#[test]
fn decisions_have_maps_views_and_targets() {
    let houses = houses();
    let config = small();
    let recorded = houses.walk(Split::Train, 0).unwrap().unwrap();
    let walks = made(&*recorded, &config).unwrap();
    let (count, cells) = (walks.decisions(), 32 * 32);
    let steps = recorded.poses().len() - 1 - TURNS;
    assert_eq!(walks.steps, [steps.div_ceil(3) + 1]);
    assert_eq!(walks.maps.len(), count * walks.channels * cells);
    assert_eq!(walks.views.len(), count * 4 * 32 * 32);
    assert_eq!(walks.seen.len(), count * cells);
    let targets = walks.targets.as_ref().unwrap();
    assert_eq!(targets.class_count, 16);
    assert_eq!(
        (targets.distances.len(), targets.classes.len()),
        (count * cells, count * cells)
    );
    assert!(
        (targets.progress[0]).abs() < 1e-6,
        "{}",
        targets.progress[0]
    );
    assert!(targets.progress[count - 1] > 0.9);
    assert!(targets.progress.is_sorted());
    for at in 0..count {
        // An agent stands on a floor or in a door, knows where it is, and stands on its path.
        let middle = at * cells + 16 * 32 + 16;
        assert!(matches!(targets.classes[middle], 1 | 3));
        assert!(targets.distances[middle] <= 1.0);
        let [right, ahead] = targets.waypoints[at];
        // 8 of 16 cells.
        assert!(right.hypot(ahead) <= 0.5 + 1e-5);
        // What is not seen has no values, what is seen has some.
        for cell in 0..cells {
            let value = |channel: usize| walks.maps[(at * 9 + channel) * cells + cell];
            let any = (0..9).any(|channel| value(channel) > 0);
            assert_eq!(any, walks.seen[at * cells + cell] == 1);
        }
    }
    // After it has looked around, most of its room is seen, and not all of the house.
    let seen: usize = walks.seen[..cells]
        .iter()
        .map(|seen| usize::from(*seen))
        .sum();
    assert!(seen > 100 && seen < 1000, "{seen}");
}

#[test]
fn walls_of_the_map_are_where_walls_are() {
    // The height channel is high over walls and things, and low over floors.
    let houses = houses();
    let config = WalkConfig {
        heights: [-1.5, 1.2],
        ..small()
    };
    let recorded = houses.walk(Split::Train, 2).unwrap().unwrap();
    let walks = made(&*recorded, &config).unwrap();
    let cells = 32 * 32;
    let classes = &walks.targets.as_ref().unwrap().classes[..cells];
    let height = &walks.maps[6 * cells..7 * cells];
    let mean = |class: u8| {
        let own = (0..cells).filter(|at| classes[*at] == class && walks.seen[*at] == 1);
        let levels: Vec<f64> = own.map(|at| f64::from(height[at])).collect();
        levels.iter().sum::<f64>() / levels.len() as f64
    };
    assert!(mean(2) > 2.0 * mean(1), "{} {}", mean(2), mean(1));
}

#[test]
fn depth_is_the_distance_to_what_is_seen() {
    let houses = houses();
    let (task, _) = houses.task(Split::Train, 1);
    let camera = houses.camera();
    for pose in task.poses.iter().step_by(7) {
        let seen = view::seen(&task.house, *pose, &camera);
        for row in 0..camera.height {
            for column in 0..camera.width {
                let ahead = f64::from(seen.depth[row * camera.width + column]);
                let [right, up] = camera.slopes(row, column);
                let high = camera.lift + up * ahead;
                assert!((-1e-5..=2.5 + 1e-5).contains(&high), "{high}");
                // Right before what is hit, the ray is in the open, as far as walls go.
                let place = pose.place_of([right * (ahead - 1e-3), ahead - 1e-3]);
                let [r, c] = House::cell_of(place);
                assert!(ahead == 0.0 || task.house.tile(r, c) != Tile::Wall);
            }
        }
    }
}

#[test]
fn a_simulator_that_follows_the_expert_arrives() {
    let houses = houses();
    for index in 0..4 {
        let mut simulator = Simulator::new(&houses, Split::Val, index, &small()).unwrap();
        let mut decisions = 1;
        loop {
            let walks = simulator.walks();
            assert_eq!(walks.steps, [decisions]);
            let targets = walks.targets.as_ref().unwrap();
            let (waypoint, progress) = (
                targets.waypoints[decisions - 1],
                targets.progress[decisions - 1],
            );
            if progress > 0.95 {
                break;
            }
            let acted = simulator.act(waypoint).unwrap();
            assert_eq!(acted.collisions, 0);
            decisions += 1;
            assert!(decisions < 100, "it does not arrive");
        }
        let walked = simulator.stop();
        assert!(*walked.to_goal.last().unwrap() < 1.5);
        assert_eq!(walked.places.len(), walked.to_goal.len());
        assert!(length(&walked.places) < 1.2 * length(&walked.reference) + 0.5);
    }
}

#[test]
fn its_first_decision_is_that_of_the_record() {
    let houses = houses();
    let recorded = houses.walk(Split::Val, 1).unwrap().unwrap();
    let recorded = made(&*recorded, &small()).unwrap();
    let simulator = Simulator::new(&houses, Split::Val, 1, &small()).unwrap();
    let first = simulator.walks();
    assert_eq!(first.maps, recorded.maps[..first.maps.len()]);
    assert_eq!(first.views, recorded.views[..first.views.len()]);
    let (own, known) = (
        first.targets.as_ref().unwrap(),
        recorded.targets.as_ref().unwrap(),
    );
    assert_eq!(own.waypoints[0], known.waypoints[0]);
    assert_eq!(own.distances, known.distances[..own.distances.len()]);
}

#[test]
fn an_agent_without_a_way_waits_and_one_that_sees_nothing_collides() {
    let houses = houses();
    let mut simulator = Simulator::new(&houses, Split::Val, 0, &small()).unwrap();
    let before = simulator.pose();
    for waypoint in [[f32::NAN, 0.0], [f32::INFINITY, 1.0], [0.0, 0.0]] {
        let acted = simulator.act(waypoint).unwrap();
        assert_eq!(acted.steps, 1);
        assert_eq!(simulator.pose(), before);
    }
    assert_eq!(simulator.steps(), TURNS + 3);
    // Straight on, again and again, it comes to a wall.
    for _ in 0..60 {
        simulator.act_straight([0.0, 0.5]).unwrap();
    }
    assert!(simulator.collisions() > 0);
    let walked = simulator.stop();
    let last = walked.places[walked.places.len() - 1];
    let house = houses.task(Split::Val, 0).0.house;
    let [row, column] = House::cell_of(last);
    assert!(house.is_free(row, column));
}

#[test]
fn bad_settings_are_named() {
    for (text, key) in [
        ("train = 0", "train"),
        ("paths = 0", "paths"),
        ("sides = [80, 40]", "sides"),
        ("sides = [8, 40]", "sides"),
        ("rooms = [1, 4]", "rooms"),
        ("size = 4", "size"),
        ("steps = [10, 200]", "steps"),
        ("steps = [25, 30]", "steps"),
    ] {
        let config: HousesConfig = toml::from_str(text).unwrap();
        let message = config.validate("data.houses").unwrap_err().to_string();
        assert!(message.contains(&format!("data.houses.{key}")), "{message}");
    }
}

#[test]
fn where_no_path_fits_nothing_is_searched_for_ever() {
    let config = HousesConfig {
        sides: [24, 24],
        rooms: [2, 2],
        steps: [190, 200],
        ..houses().config
    };
    let opened = config.open(&Limits::full_size(1));
    let error = opened
        .map(|source| source.describe())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("data.houses.steps") && error.contains("had fewer"),
        "{error}"
    );
}

#[test]
fn what_is_dropped_is_counted() {
    let config = HousesConfig {
        steps: [60, 90],
        ..houses().config
    };
    let note = Houses::new(config).notes().remove(0);
    assert!(
        note.contains("of less than 60 steps") && !note.contains(" 0 were drawn"),
        "{note}"
    );
    let own = KINDS.len();
    assert_eq!(Houses::classes().len(), 4 + own);
}
