//! The caption parser's knowledge of English words: all closed classes, and the open words that suffixes do not classify.
//!
//! The lists are short on purpose. A word that is in no list and has no telling suffix is taken for a noun or an adjective; the
//! parser need not distinguish these.

use std::collections::HashMap;
use std::sync::LazyLock;

/// The class of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Class {
    /// Its closed class, if it has one; then it has no other class.
    pub closed: Option<Closed>,
    flags: u32,
}

/// The classes to which a language adds no words, each with an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// `a`, `an`.
    Indefinite,
    /// `the`, `his`, `this`.
    Determiner,
    /// `two`, `several`: a plural follows, except after `one`.
    Number,
    /// `no`: what follows is absent.
    No,
    /// `on`.
    Preposition,
    /// `is`.
    Be,
    /// `has`.
    Have,
    /// `will`, `does`.
    Auxiliary,
    /// `and`, `or`.
    And,
    /// `while`: a new clause.
    Subordinator,
    /// `who`, `which`.
    Relative,
    /// `it`.
    Pronoun,
    /// `very`.
    Adverb,
    /// `there`.
    There,
    /// `not`.
    Not,
}

/// Possible classes of an open word; it may have several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Is {
    /// Certainly an adjective: `red`.
    Adjective = 1,
    /// An adjective that may stand after its noun: `a bowl full of fruit`.
    AfterNoun = 2,
    /// The dictionary form of a verb: `ride`.
    Base = 4,
    /// A verb with `s`: `rides`.
    Third = 8,
    /// `riding`.
    Ing = 16,
    /// `parked`, `worn`.
    Past = 32,
    /// A past form that is not a participle: `rode`.
    PastOnly = 64,
    /// A noun that ends like a verb: `ceiling`, `bed`.
    Noun = 128,
    /// A noun that is a verb before an article: `painting a fence`.
    NounOrVerb = 256,
    /// More often a plural than a verb, so a verb only before an article: `covers the floor`.
    RarelyThird = 512,
    /// Stands before a noun instead of taking an object: `smiling man`.
    Describes = 1024,
    /// A plural without `s`: `men`.
    Plural = 2048,
    /// Moves by itself, so `-ing` is probably about it.
    Moves = 4096,
    /// Only gives a quantity: `a group of people` is about people.
    Quantity = 8192,
    /// Names nothing visible: `way`, `side`.
    Vague = 16_384,
    /// The place of a whole scene, so `on a grey background` is about its subject.
    Setting = 32_768,
}

impl Class {
    pub(super) fn is(self, what: Is) -> bool {
        self.flags & what as u32 != 0
    }

    /// Whether it may be a noun or an adjective.
    pub(super) fn is_open(self) -> bool {
        self.closed.is_none()
    }
}

const CLOSED: &[(Closed, &str)] = &[
    (Closed::Indefinite, "a an"),
    (
        Closed::Determiner,
        "the this these those each every either neither another any some all both half his her its their my our \
         your other certain enough whose such",
    ),
    (
        Closed::Number,
        "one two three four five six seven eight nine ten eleven twelve thirteen fifteen twenty thirty forty fifty \
         several many few multiple various numerous dozen hundred thousand million",
    ),
    (Closed::No, "no"),
    (
        Closed::Preposition,
        "in on at under over above below beneath beside besides behind near by with of for from to into onto through \
         across along alongside around round against among amongst amid between inside outside within without toward \
         towards underneath atop aboard past beyond up down off out like during after before since until despite including \
         per via about upon opposite throughout amidst",
    ),
    (Closed::Be, "is are was were be been being am"),
    (Closed::Have, "has have had"),
    (
        Closed::Auxiliary,
        "do does did can could will would may might shall should must cannot gets got",
    ),
    (Closed::And, "and or but & nor plus"),
    (
        Closed::Subordinator,
        "while as when where because although though if whereas so than once wherever whenever how why \
         whether",
    ),
    (Closed::Relative, "who which whom that"),
    (
        Closed::Pronoun,
        "it he she they him them i we you us me himself herself itself themselves someone somebody \
         something everyone everybody everything anyone anything nothing nobody none mine theirs hers yours what",
    ),
    (
        Closed::Adverb,
        "very quite too also just still already almost apart away here now then perhaps maybe even really rather \
         somewhat again ever together ahead forward backward backwards forwards aside nearby overhead indoors outdoors \
         upside sideways upstairs downstairs abroad else well often sometimes always soon later ago yet however \
         therefore thus instead further  atleast more most less least much upward upwards downward downwards",
    ),
    (Closed::There, "there"),
    (Closed::Not, "not never"),
];

const ADJECTIVES: &str = "\
    red green blue yellow purple orange white black grey gray beige pink teal brown tan golden silver violet maroon \
    turquoise navy blonde blond brunette dark bright light pale colorful colourful multicolored multi-colored \
    large small big little tiny huge giant tall short long wide narrow thick thin massive enormous medium mini \
    miniature gigantic young old elderly new ancient vintage modern antique middle-aged older younger larger smaller \
    bigger taller shorter longer wet dry hot cold warm cool fresh ripe raw heavy soft hard busy quiet lush rocky sandy \
    snowy grassy muddy dusty cloudy sunny rainy foggy round rectangular triangular oval flat wooden metallic happy \
    sad angry cute beautiful pretty handsome attractive nice lovely delicious fancy shiny fluffy furry fuzzy hairy \
    high low upper lower left right top bottom front rear back male female public double single first second third \
    last different same similar main real fake plain bare blank strange weird odd unusual funny silly ugly friendly \
    lonely curly straight steep deep shallow sharp dull smooth rough clear thirsty hungry tired sleepy healthy tasty \
    sweet sour spicy chinese american english french japanese asian african european indian italian female naked major minor \
    northern southern eastern western overcast tropical rural urban indoor outdoor electric electronic military \
    professional good bad great early late sacred own next close separate individual additional entire whole";

const AFTER_NOUN: &str = "full empty ready high open closed alone asleep awake alive visible upright shut available able unable";

/// Regular verbs.
const VERBS: &str = "\
    walk play look watch jump reach pull push touch carry cross fly lean pose climb hang rest perch graze wander stare \
    gaze smile laugh talk cook wash brush clean cut eat hold wear ride drive throw catch swing kick surf sail float \
    travel move pass roll slide stand sit lie lay sleep drink use open close read write draw paint work serve prepare \
    enjoy attempt try want begin start stop wait look see show display contain include depict feature surround enter \
    leave approach chase follow face cover fill line top hug kiss pet feed milk lick bite chew sniff peek peer point \
    wave shake greet dance sing perform practice race skate ski snowboard skateboard swim dive splash run jog gather \
    meet visit share pour mix bake chop slice peel stir grill fix repair build dig plant pick grab grasp clutch grip \
    lift raise lower drop place put set tie decorate adorn dress stretch crouch kneel bend squat lounge relax nap \
    stroll hike march parade graze roam swoop soar hover land taxi take make give get buy sell shop speak call text \
    type examine inspect study celebrate cheer clap hit strike bounce toss pitch bat dribble shoot block defend tackle \
    return head seem appear remain stay live grow bloom emerge crash burn shine glow reflect overlook support hold \
    protect block separate connect attach tow haul load unload deliver park steer board ride exit sport go come lead \
    become belong need help keep say tell ask think know find become crawl sweep mow rake trim cross balance juggle \
    blow fall spin flip twist turn wrap nibble munch devour cuddle snuggle nurse nuzzle guard herd groom shear spread \
    drag struggle wrestle fight aim fire flow drip spray sprinkle squeeze handle operate repair install hide extend harvest \
    compare control indicate illustrate represent describe rule govern invade attack march protest celebrate";

/// Verbs that double their last letter.
const DOUBLING: &str = "sit run cut hit put set get swim jog shop grab clap chop spin skip dip trim wrap strip step stop plan pet \
    hug hop drag flip grip nap squat dig bat tag drip mop rub chat";

/// Irregular verbs: dictionary form, past, participle.
const IRREGULAR: &str = "\
    ride:rode:ridden sit:sat:sat stand:stood:stood hold:held:held wear:wore:worn eat:ate:eaten run:ran:run \
    take:took:taken make:made:made draw:drew:drawn drive:drove:driven throw:threw:thrown catch:caught:caught \
    keep:kept:kept hang:hung:hung lay:laid:laid lie:lay:lain lead:led:led meet:met:met sell:sold:sold show:showed:shown \
    see::seen sleep:slept:slept speak:spoke:spoken swim:swam:swum sweep:swept:swept swing:swung:swung teach:taught:taught \
    tell:told:told go:went:gone build:built:built buy:bought:bought bring:brought:brought come:came:come cut::cut \
    dig:dug:dug drink:drank:drunk fly:flew:flown fall:fell:fallen feed:fed:fed fight:fought:fought give:gave:given \
    grow:grew:grown hide:hid:hidden hit::hit know:knew:known leave:: put::put read:: say:said:said set::set \
    shake:shook:shaken shine:shone:shone shoot:: sing:sang:sung slide:slid:slid strike:struck:struck write:wrote:written \
    begin:began:begun become:became:become bend:bent:bent bite::bitten blow:blew:blown get:: kneel:knelt:knelt \
    shear:sheared:shorn spread::spread spin:spun:spun steal:stole:stolen stick:stuck:stuck tear:tore:torn think:thought: \
    find:: freeze:froze: break:broke:broken choose:chose:chosen dive:dove: wind:: string:strung:strung sink:sank:sunken";

const RARELY_THIRD: &str = "\
    covers tops fills faces hands lines drinks cooks plants waves lights turns races points lands heads texts types calls \
    parks places sets boards sports picks uses cuts slices catches bats blocks guards nurses bites studies visits displays \
    features supports lowers hikes parades marches dances flips grills skis skates fights fires sprays handles loads \
    deliveries needs herds pets naps surfs swings crosses rings spins tacks sticks slides leaves shops hits cross";

/// Nouns that end like verbs.
const NOUNS: &str = "\
    building buildings ceiling clothing wedding railing evening morning string king ring wing spring thing something \
    anything nothing everything sibling pudding lightning icing crossing landing lighting seating flooring siding awning \
    bedding earring duckling dumpling herring painting drawing dressing stuffing topping frosting filling being ping \
    sling swing viking outing setting covering opening stocking carving writing engraving etching meeting parking housing \
    plumbing offering offspring darling inning innings rigging scaffolding paneling tubing wiring shipping warning heading \
    gathering hearing training fencing netting marking stuffing rating beijing sterling \
    bed shed seed weed sled reed feed speed breed need deed shred steed tweed moped hundred infrared biped watershed \
    flatbed seabed waterbed riverbed homestead toolshed bunkbed greed creed bloodshed";

const NOUN_OR_VERB: &str = "\
    painting drawing building crossing landing dressing covering opening serving stuffing topping carving writing filling \
    meeting ring string swing setting";

/// Participles that stand before a noun instead of taking an object.
const DESCRIBE: &str = "\
    smiling laughing running sleeping crying moving growing looking standing sitting living working missing amazing \
    interesting exciting charming stunning flowing glowing burning boiling melting floating matching surrounding remaining \
    overlapping hanging oncoming passing waiting barking rising setting falling blooming flowering leading dining parking \
    swimming washing cutting shopping frying sewing vending mixing rocking fishing racing bathing folding sliding rolling \
    revolving closing opening existing following corresponding neighboring";

/// Pairs of a participle and a noun that always belong together.
const COMPOUNDS: &str = "\
    parking:lot parking:lots parking:meter parking:meters parking:garage parking:space parking:spot parking:spaces \
    parking:sign parking:structure parking:deck parking:area dining:room dining:table dining:tables dining:area \
    dining:hall dining:set dining:chair dining:chairs living:room living:rooms living:area swimming:pool swimming:pools \
    washing:machine washing:machines cutting:board cutting:boards shopping:cart shopping:carts shopping:bag \
    shopping:bags shopping:mall shopping:center running:water running:shoes frying:pan frying:pans baking:sheet \
    baking:pan baking:dish walking:stick walking:path walking:trail sleeping:bag sleeping:bags fishing:boat \
    fishing:boats fishing:pole fishing:rod fishing:net racing:car racing:bike racing:bikes rolling:pin rocking:chair \
    rocking:chairs changing:table serving:tray serving:dish serving:platter serving:plate sewing:machine vending:machine \
    vending:machines mixing:bowl mixing:bowls bathing:suit bathing:suits wedding:cake ironing:board boxing:ring \
    batting:cage hiking:trail landing:strip landing:gear drinking:fountain drinking:glass drinking:water ice:cream \
    playing:field playing:cards riding:gear driving:range writing:desk reading:glasses cooking:utensils waiting:room \
    waiting:area sitting:room sitting:area seating:area flying:saucer";

const PLURALS: &str = "\
    people men women children sheep cattle police geese teeth feet mice policemen firemen fishermen snowmen businessmen \
    deer gentlemen youths";

const MOVERS: &str = "\
    man men woman women boy boys girl girls person people child children kid kids baby babies toddler toddlers guy guys \
    lady ladies gentleman gentlemen couple family crowd team player players batter batters pitcher catcher umpire surfer \
    surfers skier skiers snowboarder snowboarders skateboarder skateboarders skater rider riders cyclist cyclists biker \
    bikers motorcyclist worker workers officer officers policeman policemen fireman chef chefs cook waiter waitress \
    student students teacher teachers soldier soldiers doctor nurse dancer dancers singer musician musicians actor actress \
    artist farmer fisherman businessman athlete runner runners swimmer hiker hikers climber tourist tourists passenger \
    passengers pedestrian pedestrians shopper mother father mom dad son daughter brother sister husband wife bride groom \
    adult adults teen teens teenager teenagers female females male males friend friends dog dogs cat cats horse horses \
    cow cows sheep elephant elephants giraffe giraffes zebra zebras bear bears bird birds duck ducks goose geese goat \
    goats puppy puppies kitten kittens pigeon pigeons seagull seagulls gull parrot monkey monkeys lion lions tiger fish \
    animal animals deer bull bulls calf lamb lambs pony chicken chickens rabbit squirrel owl eagle swan swans penguin \
    whale dolphin snake turtle butterfly bee car cars bus buses train trains plane planes airplane airplanes jet jets \
    boat boats ship ships truck trucks van bike bikes bicycle bicycles motorcycle motorcycles scooter scooters kite kites \
    helicopter taxi tractor sailboat ferry airliner crane trolley king queen president warrior warriors spaniard";

const QUANTITIES: &str = "\
    couple group groups bunch lot lots plenty number variety pair pairs dozens hundreds thousands millions kind kinds \
    type types sort sorts piece pieces close-up closeup series collection assortment set array amount bit majority \
    handful several many some few one two three part parts rest host range";

const VAGUE: &str = "\
    way ways lot lots kind kinds sort sorts type types front side sides left right middle center centre top bottom back \
    end rear time times thing things one ones other others half bit amount number variety order use addition fact case \
    example examples sense while moment part parts rest place something each both figure fig credit courtesy et al \
    various following follows";

const SETTINGS: &str =
    "background backdrop foreground distance day night picture photo image scene photograph";

/// Words in `-ly` that are not adverbs.
const LY: &str = "\
    family fly butterfly dragonfly lily jelly belly italy july ugly friendly lovely silly elderly curly early daily \
    lonely lively hilly chilly frilly bully rally doily holy deadly orderly oily assembly supply reply anomaly monopoly \
    woolly homely wooly smelly grizzly bubbly gangly burly likely firefly housefly ally folly jolly molly polly \
    rely multiply apply ply sly wily";

static WORDS: LazyLock<HashMap<String, Class>> = LazyLock::new(listed);

/// Classifies a word in lower case.
pub(super) fn classify(word: &str) -> Class {
    if let Some(class) = WORDS.get(word) {
        return *class;
    }
    let open = |flags| Class {
        closed: None,
        flags,
    };
    let long = |ending: &str, least: usize| word.len() >= least && word.ends_with(ending);
    if word.bytes().all(|byte| byte.is_ascii_digit()) {
        return Class {
            closed: Some(Closed::Number),
            flags: 0,
        };
    }
    if long("ing", 5) {
        open(Is::Ing as u32)
    } else if long("ed", 4) && !long("eed", 0) {
        open(Is::Past as u32)
    } else if long("ly", 4) {
        Class {
            closed: Some(Closed::Adverb),
            flags: 0,
        }
    } else if long("ful", 6) || long("ous", 6) || long("less", 6) || long("ish", 7) {
        open(Is::Adjective as u32)
    } else if long("men", 5) {
        open(Is::Plural as u32 | Is::Moves as u32)
    } else if long("man", 6) {
        open(Is::Moves as u32)
    } else {
        open(0)
    }
}

/// Whether a participle and the following noun are one name: `parking lot`.
pub(super) fn is_compound(participle: &str, noun: &str) -> bool {
    COMPOUNDS
        .split_whitespace()
        .filter_map(|pair| pair.split_once(':'))
        .any(|pair| pair == (participle, noun))
}

/// Whether a noun is plural by its form.
pub(super) fn is_plural(word: &str, class: Class) -> bool {
    class.is(Is::Plural)
        || (word.len() > 3
            && word.ends_with('s')
            && !["ss", "us", "is", "'s"]
                .iter()
                .any(|end| word.ends_with(end)))
}

fn listed() -> HashMap<String, Class> {
    let mut words: HashMap<String, Class> = HashMap::new();
    let mut open = |list: &str, is: Is| {
        for word in list.split_whitespace() {
            let class = words.entry(word.to_owned()).or_insert(Class {
                closed: None,
                flags: 0,
            });
            class.flags |= is as u32;
        }
    };
    open(ADJECTIVES, Is::Adjective);
    open(AFTER_NOUN, Is::Adjective);
    open(AFTER_NOUN, Is::AfterNoun);
    open(NOUNS, Is::Noun);
    open(NOUN_OR_VERB, Is::NounOrVerb);
    open(DESCRIBE, Is::Describes);
    open(RARELY_THIRD, Is::RarelyThird);
    open(PLURALS, Is::Plural);
    open(MOVERS, Is::Moves);
    open(QUANTITIES, Is::Quantity);
    open(VAGUE, Is::Vague);
    open(SETTINGS, Is::Setting);
    open(LY, Is::Noun);
    let regular = VERBS.split_whitespace().map(|base| (base, None));
    let irregular = IRREGULAR.split_whitespace().filter_map(|entry| {
        let (base, pasts) = entry.split_once(':')?;
        Some((base, pasts.split_once(':')))
    });
    for (base, pasts) in regular.chain(irregular) {
        open(base, Is::Base);
        open(&third(base), Is::Third);
        open(&with_ending(base, "ing"), Is::Ing);
        let is_irregular = |verb: &str| {
            IRREGULAR
                .split_whitespace()
                .any(|entry| entry.split(':').next() == Some(verb))
        };
        match pasts {
            Some((past, participle)) => {
                open(participle, Is::Past);
                if past != participle {
                    open(past, Is::PastOnly);
                }
                open(past, Is::Past);
            }
            None if is_irregular(base) => {}
            None => open(&with_ending(base, "ed"), Is::Past),
        }
    }
    for word in DESCRIBE
        .split_whitespace()
        .filter(|word| word.ends_with("ing"))
    {
        open(word, Is::Ing);
    }
    for (closed, list) in CLOSED {
        for word in list.split_whitespace() {
            let class = Class {
                closed: Some(*closed),
                flags: words.get(word).map_or(0, |class| class.flags),
            };
            words.insert(word.to_owned(), class);
        }
    }
    words
}

fn third(base: &str) -> String {
    let ends = |endings: &[&str]| endings.iter().any(|ending| base.ends_with(ending));
    match base.strip_suffix('y') {
        Some(stem) if !ends(&["ay", "ey", "oy", "uy"]) => format!("{stem}ies"),
        _ if ends(&["s", "x", "z", "ch", "sh", "o"]) => format!("{base}es"),
        _ => format!("{base}s"),
    }
}

fn with_ending(base: &str, ending: &str) -> String {
    let last = base.chars().last().unwrap_or_default();
    if DOUBLING.split_whitespace().any(|word| word == base) {
        return format!("{base}{last}{ending}");
    }
    if ending == "ing" {
        if let Some(stem) = base.strip_suffix("ie") {
            return format!("{stem}ying");
        }
        return match base.strip_suffix('e') {
            Some(stem) if !base.ends_with("ee") => format!("{stem}ing"),
            _ => format!("{base}ing"),
        };
    }
    match base.strip_suffix('y') {
        Some(stem)
            if !["ay", "ey", "oy", "uy"]
                .iter()
                .any(|end| base.ends_with(end)) =>
        {
            format!("{stem}ied")
        }
        _ if last == 'e' => format!("{base}d"),
        _ => format!("{base}ed"),
    }
}
