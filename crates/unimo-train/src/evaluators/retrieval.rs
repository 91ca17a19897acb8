//! Retrieval over held-out images and texts, in both directions: by the contrast, by its shortlist ranked by the matching head, or
//! by the matching head alone. Also the gates, codes and phrases of some pairs, and a gallery.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use unimo_data::{ConceptReader, EvalSet, SkipList, Source, Split};
use unimo_eval::retrieval::{MethodReport, RetrievalReport};
use unimo_eval::{Directions, GroundTruth, Method, Pair, Recall};
use unimo_report::numbers::duration;
use unimo_report::record::{ChanceRecord, EvalRecord, GatesRecord, RecallRecord, RetrievalRecord};

use crate::diagnostics::codes::{self, Codes};
use crate::diagnostics::phrases::{self, Phrases};
use crate::error::TrainError;
use crate::evaluators::encoded::Encoded;
use crate::evaluators::gallery::gallery;
use crate::evaluators::gates::gates;
use crate::evaluators::plan::{self, Plan, Protocol};
use crate::evaluators::{Evaluator, Weights};
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::run::RunFolder;

/// The name of this evaluator.
pub const NAME: &str = "retrieval";

/// The mean of R@1, R@5 and R@10 in both directions by the best method.
pub const MEAN_RECALL: &str = "retrieval.mean_recall";

/// Number of pairs above which an evaluation shows its progress; a small model scores so many in a minute on a CPU.
const LONG_EVALUATION: usize = 50_000;

/// Retrieval over a run's held-out split, planned to cost little compared with training.
pub struct Retrieval {
    all: EvalSet,
    /// What evaluations before the last step score, and on which images; `None`: everything, on all images.
    during: Option<(Plan, EvalSet)>,
    /// Whether the last evaluation also scores the captions in each language alone.
    by_language: bool,
}

impl Retrieval {
    /// Scores everything in every evaluation.
    pub fn whole(all: EvalSet) -> Self {
        Self {
            all,
            during: None,
            by_language: false,
        }
    }

    /// Keeps evaluations during training within the cost that the recipe allows. If `planned` is false, an older version began the
    /// run, which selects its best weights by all methods.
    pub fn planned(all: EvalSet, recipe: &Recipe, planned: bool) -> Self {
        let (pictures, texts) = (all.items().len(), all.captions().len());
        let plan = Plan::new(recipe, pictures, texts).filter(|_| planned);
        let during = plan.map(|plan| (plan, all.part(plan.pictures)));
        Self {
            all,
            during,
            by_language: true,
        }
    }

    /// Scores the captions in each language alone, if there are several languages: a record each, which selects nothing. `scored` is what
    /// the record of all languages is scored by.
    ///
    /// # Errors
    ///
    /// The data cannot be read, or a score is not finite.
    pub fn by_language(
        &self,
        weights: &Weights<'_>,
        scored: &str,
        say: &mut dyn FnMut(String),
    ) -> Result<Vec<EvalRecord>, TrainError> {
        let languages = self.all.languages();
        let mut records = Vec::new();
        for language in languages.iter().filter(|_| languages.len() > 1) {
            let set = self.all.in_language(language);
            let evaluated = evaluate(weights, Protocol::Full, &set, &mut |_, _| ())?;
            if weights.run.is_some() {
                let summary = summary(weights.step, &evaluated);
                say(format!("captions in {language}: {summary}"));
            }
            records.push(EvalRecord {
                language: language.clone(),
                selects: false,
                score: None,
                scored: scored.to_owned(),
                ..record(weights.step, &set, &evaluated)
            });
        }
        Ok(records)
    }

    /// Scores a set by one protocol and prints the result. If `shown` is set, also writes what the report shows besides the
    /// numbers.
    fn score(
        &self,
        weights: &Weights<'_>,
        (protocol, set): (Protocol, &EvalSet),
        shown: bool,
        say: &mut dyn FnMut(String),
    ) -> Result<(EvalRecord, Evaluated), TrainError> {
        let began = Instant::now();
        // A separate progress bar, only if the evaluation takes long.
        let long = match weights.run {
            _ if weights.quiet => usize::MAX,
            Some(_) => LONG_EVALUATION,
            None => 0,
        };
        let evaluated = {
            let bar = &mut scoring_bar(long, weights.last, &mut *say);
            evaluate(weights, protocol, set, bar)?
        };
        if let Some(run) = weights.run {
            let summary = summary(weights.step, &evaluated);
            let took = duration(began.elapsed().as_secs_f64());
            say(format!("{summary}; evaluated in {took}"));
            if shown {
                write(run, set, weights.recipe, &evaluated)?;
            }
        }
        Ok((record(weights.step, set, &evaluated), evaluated))
    }
}

impl Evaluator for Retrieval {
    fn name(&self) -> &'static str {
        NAME
    }

    fn scalars(&self) -> Vec<String> {
        vec![MEAN_RECALL.to_owned()]
    }

    fn says(&self, recipe: &Recipe) -> Vec<String> {
        let (pictures, texts) = (self.all.items().len(), self.all.captions().len());
        let during = self.during.iter();
        during
            .map(|(plan, _)| plan.says(recipe, pictures, texts))
            .collect()
    }

    fn is_owed(&self, done: &[EvalRecord], step: u64, last: bool) -> bool {
        // After the last step, the record of everything comes last.
        let all = self.all.label();
        let ends = |record: &EvalRecord| {
            let of_all = all == record.split && record.protocol != Protocol::Contrast.name();
            record.evaluator == NAME && (!last || of_all)
        };
        !done
            .iter()
            .any(|record| record.step == step && ends(record))
    }

    fn evaluate(
        &self,
        weights: &Weights<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Vec<EvalRecord>, TrainError> {
        let all = (Protocol::Full, &self.all);
        let Some((plan, part)) = &self.during else {
            let record = self.score(weights, all, true, say)?.0;
            let scored = record.scored.clone();
            let mut records = vec![record];
            if self.by_language {
                records.extend(self.by_language(weights, &scored, say)?);
            }
            return Ok(records);
        };
        if !weights.last {
            let scored = (plan.protocol, part);
            return Ok(vec![self.score(weights, scored, true, say)?.0]);
        }
        // The best weights are selected by what every evaluation scores, even if the last one scores more.
        let whole = plan.pictures == self.all.items().len();
        let mut records = Vec::new();
        let mut score = None;
        if !whole {
            let scored = (plan.protocol, part);
            let (record, evaluated) = self.score(weights, scored, false, say)?;
            records.push(record);
            score = Some(evaluated.score());
        }
        let (mut full, evaluated) = self.score(weights, all, true, say)?;
        full.score = Some(match (score, plan.protocol) {
            (Some(score), _) => score,
            (None, Protocol::Contrast) => evaluated.score_of_contrast(),
            (None, Protocol::Full) => evaluated.score(),
        });
        full.scored = format!("{} on {}", plan.protocol.name(), part.label());
        let of_languages = self.by_language(weights, &full.scored, say)?;
        records.push(full);
        records.extend(of_languages);
        Ok(records)
    }
}

/// Held-out images and texts; `None` if the data has no such split.
pub fn open_set(
    recipe: &Recipe,
    source: &Arc<dyn Source>,
    splits: &[Split],
    skip: &SkipList,
    concepts: Option<ConceptReader>,
) -> Result<Option<EvalSet>, TrainError> {
    if splits.iter().all(|split| source.is_empty(*split)) {
        return Ok(None);
    }
    let limit = (recipe.eval.limit > 0).then_some(recipe.eval.limit);
    let set = EvalSet::new(
        Arc::clone(source),
        splits,
        limit,
        recipe.data.image_spec(),
        skip,
    )?;
    Ok(Some(set.with_concepts(concepts)))
}

/// Shows the progress of an evaluation, reported by [`evaluate`], if it scores more than `from` pairs. With `cost`, it prints after
/// the first batches how many pairs there are and how long they will take. Ends when dropped.
pub fn scoring_bar(
    from: usize,
    cost: bool,
    mut say: impl FnMut(String),
) -> impl FnMut(usize, usize) {
    let mut bar: Option<Progress> = None;
    let began = std::time::Instant::now();
    // The first batch, which also waits for features, and the time it was done.
    let mut first: Option<(usize, f64)> = None;
    let mut said = !cost;
    move |done, total| {
        let now = began.elapsed().as_secs_f64();
        if done > 0 && !said {
            match first {
                None => first = Some((done, now)),
                Some((before, then)) => {
                    said = true;
                    let each = (now - then) / (done - before) as f64;
                    let left = duration(each * (total - done) as f64);
                    say(format!(
                        "{total} pairs through the matching head, {:.1} ms each: about {left}",
                        1000.0 * each
                    ));
                }
            }
        }
        if total <= from {
            return;
        }
        let bar = bar.get_or_insert_with(|| Progress::new(total as u64, 0, "scoring pairs"));
        if done > 0 {
            bar.update(done as u64, None, done as f64 / now);
        }
    }
}

/// The results of an evaluation, with what a report needs besides the numbers.
pub struct Evaluated {
    /// The numbers.
    pub retrieval: RetrievalReport,
    /// The methods that were scored.
    pub protocol: Protocol,
    /// Mean gates per layer, if the model has gates.
    gates: Option<GatesRecord>,
    /// How codes are used, if the model has a grounded dictionary.
    codes: Option<Codes>,
    /// Where phrases are found, if texts have concepts.
    phrases: Option<Phrases>,
}

/// Retrieval over held-out images and texts.
pub fn evaluate(
    weights: &Weights<'_>,
    protocol: Protocol,
    set: &EvalSet,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Evaluated, TrainError> {
    let &Weights {
        model,
        recipe,
        tokenizer,
        ..
    } = weights;
    let mut config = recipe.eval.retrieval();
    if protocol == Protocol::Contrast {
        config.shortlist = 0;
        config.full_itm = false;
    }
    let pairs = plan::pairs(recipe, protocol, set.items().len(), set.captions().len());
    let encoded = Encoded::new(weights, set, pairs > 0)?;
    let text_image = set.captions().iter().map(|c| c.image).collect();
    let truth = GroundTruth::new(text_image, set.items().len())?;
    let retrieval = unimo_eval::evaluate(&encoded, &truth, &config, progress)?;
    let features = |pairs: &[(usize, usize)]| {
        let pair = |(text, image): &(usize, usize)| Pair {
            image: *image,
            text: *text,
        };
        encoded.rows(&pairs.iter().map(pair).collect::<Vec<_>>())
    };
    Ok(Evaluated {
        gates: gates(model, &encoded, set, tokenizer, recipe)?,
        codes: codes::codes(model, set, tokenizer, recipe, features).transpose()?,
        phrases: phrases::phrases(model, set, tokenizer, recipe, features).transpose()?,
        protocol,
        retrieval,
    })
}

impl Evaluated {
    /// Quality of the weights by what this evaluation scored: a mean of recalls by the best method, compared as in
    /// [`EvalRecord::goodness`].
    pub fn score(&self) -> f64 {
        self.score_by(|_| true)
    }

    /// As [`score`](Self::score), but by the contrast alone.
    pub fn score_of_contrast(&self) -> f64 {
        self.score_by(|method| method == Method::Itc)
    }

    fn score_by(&self, method: impl Fn(Method) -> bool) -> f64 {
        let methods = self.retrieval.methods.iter();
        let sums = methods.filter(|m| method(m.method)).map(|m| m.rsum());
        sums.fold(0.0, f64::max) / 6.0
    }
}

/// The entry of the best method, chosen as in [`EvalRecord::headline`].
fn headline(report: &RetrievalReport) -> Option<&MethodReport> {
    let found = report.methods.iter().filter(|m| m.rsum().is_finite());
    found.reduce(|best, next| {
        if next.rsum() > best.rsum() {
            next
        } else {
            best
        }
    })
}

/// One line for the terminal.
pub fn summary(step: u64, evaluated: &Evaluated) -> String {
    let report = &evaluated.retrieval;
    if report.methods.is_empty() {
        return format!("step {step}: nothing to retrieve with");
    }
    let percent = |share: f64| 100.0 * share;
    // Every method, so that the lines of several evaluations say the same.
    let of_method = |method: &MethodReport| {
        format!(
            "{}: text to image R@1 {:.1}% R@10 {:.1}%, image to text R@1 {:.1}% R@10 {:.1}%",
            method.method,
            percent(method.text_to_image.r1),
            percent(method.text_to_image.r10),
            percent(method.image_to_text.r1),
            percent(method.image_to_text.r10),
        )
    };
    let methods: Vec<String> = report.methods.iter().map(of_method).collect();
    format!(
        "step {step}: {} images, {} texts, {} (chance R@1 {:.2}% and {:.2}%)",
        report.images,
        report.texts,
        methods.join("; "),
        percent(report.chance.text_to_image.r1),
        percent(report.chance.image_to_text.r1),
    ) + &evaluated
        .phrases
        .as_ref()
        .and_then(Phrases::summary)
        .map(|phrases| format!("; {phrases}"))
        .unwrap_or_default()
}

/// Writes an evaluation's results other than its numbers into the run: gates, codes, phrases, gallery.
pub fn write(
    run: &RunFolder,
    set: &EvalSet,
    recipe: &Recipe,
    evaluated: &Evaluated,
) -> Result<(), TrainError> {
    if let Some(gates) = &evaluated.gates {
        run.write_json("gates.json", gates)?;
    }
    if let Some(codes) = &evaluated.codes {
        codes.write(run, set)?;
    }
    if let Some(phrases) = &evaluated.phrases {
        phrases.write(run, set)?;
    }
    if let Some(best) = headline(&evaluated.retrieval) {
        run.write_json("gallery.json", &gallery(run, set, recipe, best)?)?;
    }
    Ok(())
}

/// The mean of several evaluations by the same methods; images and texts are those of the first. `None` without one.
pub fn mean(each: &[EvalRecord]) -> Option<EvalRecord> {
    let first = each.first()?;
    let of = |found: &dyn Fn(&EvalRecord) -> Option<RecallRecord>| -> Option<RecallRecord> {
        let all: Option<Vec<RecallRecord>> = each.iter().map(found).collect();
        let all = all?;
        let mean =
            |value: fn(&RecallRecord) -> f64| all.iter().map(value).sum::<f64>() / all.len() as f64;
        Some(RecallRecord {
            r1: mean(|r| r.r1),
            r5: mean(|r| r.r5),
            r10: mean(|r| r.r10),
            median_rank: mean(|r| r.median_rank),
        })
    };
    let methods = first.retrieval.iter().map(|method| {
        let name = &method.method;
        let own = |record: &EvalRecord| {
            let found = record.retrieval.iter().find(|m| m.method == *name);
            found.cloned()
        };
        Some(RetrievalRecord {
            method: name.clone(),
            text_to_image: of(&|record| Some(own(record)?.text_to_image))?,
            image_to_text: of(&|record| Some(own(record)?.image_to_text))?,
        })
    });
    let chance = |found: fn(ChanceRecord) -> RecallRecord| {
        of(&move |record| Some(found(record.chance.clone()?)))
    };
    let scores = each.iter().map(|record| record.score);
    let score: Option<f64> = scores.sum::<Option<f64>>();
    Some(EvalRecord {
        retrieval: methods.collect::<Option<_>>()?,
        chance: Some(ChanceRecord {
            text_to_image: chance(|c| c.text_to_image)?,
            image_to_text: chance(|c| c.image_to_text)?,
        }),
        pairs: each.iter().map(|record| record.pairs).sum(),
        score: score.map(|sum| sum / each.len() as f64),
        ..first.clone()
    })
}

/// An evaluation as a line of JSON.
pub fn record(step: u64, set: &EvalSet, evaluated: &Evaluated) -> EvalRecord {
    let report = &evaluated.retrieval;
    let recall = |r: &Recall| RecallRecord {
        r1: r.r1,
        r5: r.r5,
        r10: r.r10,
        median_rank: r.median_rank,
    };
    let Directions {
        text_to_image,
        image_to_text,
    } = &report.chance;
    let chance = |c: &unimo_eval::ChanceRecall| RecallRecord {
        r1: c.r1,
        r5: c.r5,
        r10: c.r10,
        median_rank: f64::NAN,
    };
    EvalRecord {
        evaluator: NAME.to_owned(),
        selects: true,
        scalars: BTreeMap::new(),
        step,
        split: set.label(),
        language: String::new(),
        protocol: evaluated.protocol.name().to_owned(),
        score: Some(evaluated.score()),
        scored: format!("{} on {}", evaluated.protocol.name(), set.label()),
        left_out: BTreeMap::new(),
        images: report.images as u64,
        texts: report.texts as u64,
        pairs: report.pairs_scored as u64,
        retrieval: report
            .methods
            .iter()
            .map(|m| RetrievalRecord {
                method: m.method.to_string(),
                text_to_image: recall(&m.text_to_image),
                image_to_text: recall(&m.image_to_text),
            })
            .collect(),
        chance: Some(ChanceRecord {
            text_to_image: chance(text_to_image),
            image_to_text: chance(image_to_text),
        }),
    }
}
