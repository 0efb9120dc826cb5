"""The commands that ask questions of runs and classifiers, each a study."""

from jax_sis.cli.options import DEVICE, IMAGE, WORKER, get_devices_ready
from jax_sis.cli.parsing import BEGINS_ANEW, Command
from jax_sis.runtime import devices
from jax_sis.runtime.engines import Engine
from jax_sis.studies.analysis.config import StudyConfig
from jax_sis.studies.attributions.config import AttributionsConfig
from jax_sis.studies.clusters.config import ClustersConfig, ShortcutConfig
from jax_sis.studies.components.config import ComponentsConfig
from jax_sis.studies.controls.config import ControlsConfig
from jax_sis.studies.disjoint.config import DisjointConfig
from jax_sis.studies.holds.config import HoldsConfig
from jax_sis.studies.labels.config import LabelsConfig
from jax_sis.studies.ranking.config import RankingConfig
from jax_sis.studies.soundness.config import SoundnessConfig


def run_controls(config: ControlsConfig, engine: Engine) -> None:
  devices.use_compilation_cache()
  from jax_sis.studies.controls import program

  program.controls(config, engine)


def run_analyse(config: StudyConfig) -> None:
  from jax_sis.studies.analysis import program

  program.analyse(config)


def run_attributions(config: AttributionsConfig, engine: Engine) -> None:
  get_devices_ready(config.num_devices, engine)
  from jax_sis.studies.attributions import program

  program.attributions(config, engine)


def run_clusters(config: ClustersConfig) -> None:
  get_devices_ready(config.num_devices)
  from jax_sis.studies.clusters import program

  program.clusters(config)


def run_shortcut(config: ShortcutConfig) -> None:
  get_devices_ready(config.num_devices)
  from jax_sis.studies.clusters import demo

  demo.shortcut(config)


def run_disjoint(config: DisjointConfig, engine: Engine) -> None:
  get_devices_ready(config.num_devices, engine)
  from jax_sis.studies.disjoint import program

  program.disjoint(config, engine)


def run_holds(config: HoldsConfig, engine: Engine) -> None:
  get_devices_ready(config.num_devices, engine)
  from jax_sis.studies.holds import program

  program.holds(config, engine)


def run_labels(config: LabelsConfig) -> None:
  get_devices_ready(config.num_devices)
  from jax_sis.studies.labels import program

  program.labels(config)


def run_ranking(config: RankingConfig) -> None:
  get_devices_ready(config.num_devices)
  from jax_sis.studies.ranking import program

  program.ranking(config)


def run_soundness(config: SoundnessConfig) -> None:
  get_devices_ready(config.num_devices)
  from jax_sis.studies.soundness import program

  program.soundness(config)


def run_components(config: ComponentsConfig) -> None:
  get_devices_ready(config.num_devices)
  from jax_sis.studies.components import program

  program.components(config)


COMMANDS = {
  "controls": Command(
    settings=(ControlsConfig, Engine),
    run_fn=run_controls,
    description="""\
Do the subsets of a run still work when what may leak is taken away? A subset may convince a classifier by more than the
values of its pixels: by its shape, by edges against one even background, by that background's colour. So each subset is
shown in other ways: with the cells around it put back (1, 2); with the rest black, grey, in the image's mean colour,
blurred, noise, another image of another class, or imputed from what is kept (noisy linear imputation, Rong et al.
2022); its shape alone, in its mean colour or white; as many cells at random; its shape moved elsewhere; all but the
subset; nothing; and nothing of it with the blurred image. Evidence is also looked for towards classes that are not
predicted.

It prints a table and its reading for each kind of subset that the run holds, finished or not, and writes
controls.json, controls.csv (one row per image and control) and controls.png into the run's folder. Columns: the share
of the images whose class is kept, the share that reaches the run's threshold, both with Wilson intervals; the mean
confidence; and the change of the first against the subsets themselves, with a paired bootstrap interval. All in
percent but the confidence. The same command again goes on with one that was ended before that.
""",
    examples=(
      "controls jax-sis-results",
      "controls runs/sis --limit 1000 --mask-fraction 0.05 --wrong-class 0",
      "controls gs://BUCKET/sis --checkpoint CLASSIFIER --data-dir DATA",
    ),
    groups={
      "image": "limit checkpoint model_function data_dir",
      "control": "mask_fractions num_wrong_class max_features seed",
      "worker": WORKER,
    },
  ),
  "analyse": Command(
    settings=(StudyConfig,),
    run_fn=run_analyse,
    description="""\
Says what the subsets of whole runs show: how large they are, overall and by class; whether wrong predictions rest on
smaller ones than right predictions of the same confidence; how often the classifier is right by the size of the subset;
where on the image subsets lie, with a test of even use; and how confidence falls along the removal of pixels. Several
runs, of other classifiers or other searches, are also compared on the images that all have.

It prints short tables and writes analysis.json (all numbers, each mean and share with its interval and the number of
images), analysis.csv (sizes by run, threshold and class) and sizes.png, positions.png, confidence.png and
accuracy_by_size.png. What a run does not hold is left out, and it says why.
""",
    examples=(
      "analyse runs/sis",
      "analyse runs/single runs/ensemble runs/dropout --labels single ensemble 'input dropout' --out compared",
      "analyse runs/log_odds runs/probability --thresholds 0.9 0.99",
    ),
    after_interrupt=BEGINS_ANEW,
  ),
  "attributions": Command(
    settings=(AttributionsConfig, Engine),
    run_fn=run_attributions,
    description="""\
What does a search add to an attribution? Ranks the pixels of the same images by searches, by attribution methods and at
random, and asks each order the same: how many of its first pixels suffice for the threshold, and how confidence goes
while pixels are shown (insertion) or masked (deletion) in that order. The images are the first ones of the data of
which the classifier is that confident as a whole.

It prints a table with paired bootstrap intervals and its reading, and writes attributions.json (all numbers),
attributions.csv (a line a method and image) and attributions.png. Each method is kept as it is done: the same command
again goes on with those that are missing, and so does one that names more methods.
""",
    tables={
      "methods": {
        "sis": "gradient search, one pixel a step",
        "sis_batched": "the same, --per-step pixels a step",
        "screened": "gradient and forward passes choose (some ten core-seconds an image; only where named)",
        "smallest": "the smallest evidence that jax-sis find looks for; a size, but no order",
        "gradient_x_input": "one gradient at the whole image, times the image",
        "integrated_gradients": "Sundararajan et al. 2017, 64 gradients",
        "grad_cam": "Selvaraju et al. 2017; left out where the classifier has no one last feature map, as ensembles",
        "occlusion": "what the log-odds lose without a pixel",
        "occlusion_5x5": "the same for a window around it (Zeiler and Fergus 2014)",
        "rise": "Petsiuk et al. 2018, 4,000 random masks, of the probability as there",
        "rise_log_odds": "the same of the log-odds (only where named)",
        "random": "an order by chance",
      }
    },
    examples=(
      "attributions",
      "attributions --data cifar10 --data-dir DATA --images 32 --out runs/attributions",
      "attributions --checkpoint runs/mine/classifier --data cifar10 --data-dir DATA --methods sis grad_cam random",
    ),
    groups={
      "image": f"{IMAGE} ids num_images",
      "search": "threshold methods per_step patch seed",
      "output": "out",
      "device": DEVICE,
      "worker": WORKER,
    },
  ),
  "disjoint": Command(
    settings=(DisjointConfig, Engine),
    run_fn=run_disjoint,
    description="""\
How many separate reasons does a classifier have for its answer? Finds a sufficient subset of each image, takes its
pixels away, and looks for the next one in what is left, until that does not suffice (SIS-collection, Carter et al.
2019): disjoint subsets, each of which alone makes the classifier confident. The search is the gradient's, so that the
number is a lower bound of what there is.

It prints how many images have how many subsets and how often the classifier is right about them; the size of the
subset found first, second, and so on; and whether wrong predictions have fewer than right ones, as they are and at the
same confidence. It writes disjoint.json (all numbers), disjoint.csv (one line per image) and disjoint.png. The same
command again goes on with an unfinished run.
""",
    examples=(
      "disjoint",
      "disjoint --data cifar10 --data-dir DATA --split 'test[:1000]' --out runs/disjoint",
      "disjoint --data cifar10 --data-dir DATA --images 100 --per-step 1 --minimised --max-subsets 64",
    ),
    groups={
      "image": f"{IMAGE} ids num_images",
      "search": "threshold per_step max_subsets is_minimised patch seed",
      "output": "out",
      "device": DEVICE,
      "worker": WORKER,
    },
  ),
  "holds": Command(
    settings=(HoldsConfig, Engine),
    run_fn=run_holds,
    description="""\
On which backgrounds do the first pixels of an order keep the class? A subset that suffices on the mean colour may do so
hardly anywhere else. So the first pixels of the orders of runs, and of attributions beside them, are shown on other
images, in noise, in the blurred image, and with more true pixels; all orders at all sizes on the same draws.

It prints a table and its reading: the share of the draws on which the class is kept, the mean of the smallest size at
which an image keeps it on --rate of them, and the best order under each condition. It writes holds.json (all numbers
with intervals), holds.csv (a line a condition, order and image), holds.png, and stability.png (size against the class
kept after true pixels came in). Each order and condition is kept as it is done: the same command again goes on with
those that are missing, and so does one that names more of them, on the same images.
""",
    tables={
      "conditions": {
        "images": "other images around them, drawn from --pool; judged images in it are left out, and counted",
        "noise": "normal noise, as wide as the data",
        "blur": "the image itself, blurred by 1 to 8 pixels",
        "added": "the run's baseline, and --added other pixels of the image at random (stability)",
      }
    },
    examples=(
      "holds runs/sis",
      "holds runs/sis --pool cifar10 --pool-split train --data-dir DATA --images 100",
      "holds runs/mean runs/robust --labels 'mean colour' completions --pool photos/ --out compared",
    ),
    groups={
      "image": "pool pool_split num_pool num_images checkpoint model_function data_dir",
      "judging": "attributions conditions sizes num_draws num_added rate seed",
      "output": "out labels",
      "device": DEVICE,
      "worker": WORKER,
    },
  ),
  "soundness": Command(
    settings=(SoundnessConfig,),
    run_fn=run_soundness,
    description="""\
Do the first pixels of an order speak for their class, and for it alone? A subset that suffices for the predicted class
is complete; it is sound only if the image holds no such subset for other classes. So each order is made once for every
class of an image, and asked how confident its first pixels are of that class (completeness and soundness, Gupta et al.
2022). A search costs as much for each class.

It prints a table and its reading: completeness of the predicted class, soundness of the others, how often the predicted
class is carried best, how often pixels suffice for another class, and by how much those of the predicted class are
fewer. It writes soundness.json (all numbers with intervals), soundness.csv (a line an order, image and class) and
soundness.png. The same command again goes on with an unfinished run, and so does one that names more orders.
""",
    tables={
      "orders": {
        "gradient": "gradient search, --per-step pixels a step",
        "gradient_images": "the same with other images where pixels are masked, 8 draws a step (only where named)",
        "gradient_x_input": "one gradient at the whole image, times the image",
        "integrated_gradients": "Sundararajan et al. 2017, 64 gradients",
        "grad_cam": "Selvaraju et al. 2017; left out where the classifier has no one last feature map, as ensembles",
        "random": "an order by chance, the same for all classes",
      }
    },
    examples=(
      "soundness",
      "soundness --data cifar10 --data-dir DATA --images 200 --out runs/soundness",
      "soundness --checkpoint runs/mine/classifier --data photos/ --resize --classes 5 --orders gradient random",
    ),
    groups={
      "image": f"{IMAGE} ids num_images",
      "search": "orders num_classes threshold per_step patch seed",
      "output": "out",
      "device": DEVICE,
    },
  ),
  "clusters": Command(
    settings=(ClustersConfig,),
    run_fn=run_clusters,
    description="""\
What do the subsets of a class have in common, and does that alone carry the class? Clusters the subsets of each class
that a run of find has found by where they lie (spectral relevance analysis, SpRAy, Lapuschkin et al. 2019). The place
that most subsets of a cluster keep, its region, is masked in its own images, and pasted into images of other classes,
beside the same shape elsewhere: a shortcut that has a place turns them, and the object's parts do not.

It prints a table of the clusters, those first whose region turns most images, and its reading, and writes clusters.json
(all numbers with intervals), clusters.csv (a line an image) and clusters.png. Labels are not needed. The same command
again goes on with an unfinished run, and so does one that names more classes.
""",
    examples=(
      "clusters runs/sis",
      "clusters runs/sis --classes horse ship --fraction 0.03 --out runs/clusters",
      "clusters runs/photographs --together",
    ),
    groups={
      "image": "classes is_together max_images checkpoint model_function data_dir",
      "cluster": "kind fraction region num_judged seed",
      "output": "out",
      "device": DEVICE,
    },
  ),
  "ranking": Command(
    settings=(RankingConfig,),
    run_fn=run_ranking,
    description="""\
Does the classifier rely on what is around the object? Ranks the images of each class by what their border, or another
region, alone says of the class (log-odds), or by a component of it, and compares how often the two ends are right as a
whole. A spuriosity ranking (Moayeri et al., NeurIPS 2023) does so by features that people have called spurious.

What stands in the place of the rest matters: on the mean colour a classifier may take any border for one class. So take
--removal layer for networks of convolutions, or --completion images.

It prints the gap of each class and of all data sets in one table, and its reading. It writes ranking.json (all numbers
with intervals, the ids at the ends), ranking.csv (a line an image), ranking.png (the gaps) and ends.png (images at the
ends). The same command again goes on with an unfinished run, and so does one that names more data sets.
""",
    examples=(
      "ranking --data cifar10 --data-dir DATA --removal layer",
      "ranking --data cifar10 --data-dir DATA --completion images --pool cifar10 --pool-split train",
      "ranking --data cifar10 --data-dir DATA --components runs/components --component 2",
      "ranking --data cifar10 --data-dir DATA --beside cifar10.1_v6_data.npy --region square:8,8,16",
    ),
    groups={
      "image": f"{IMAGE} ids num_images beside",
      "ranking": "region component components removal completion pool pool_split num_pooled num_draws ends seed",
      "output": "out",
      "device": DEVICE,
    },
  ),
  "components": Command(
    settings=(ComponentsConfig,),
    run_fn=run_components,
    description="""\
What is a class's logit made of, and which part of it is not the object? The features of a class, weighted by how much
each counts for it, have principal components that sum to its logit (class-wise neural PCA, Neuhaus et al. 2023). Of
each: its share of the logit's variance; the images of the class and of others in which it is largest; what raising it
alone does; how few pixels raise it, and whether the classifier calls these the class, with controls of their shape.

It prints a table and its reading, and writes components.json (all numbers), components.csv (a line a component),
components.html (images), components.npz (for ranking) and labels.json, in which a person sets is_spurious to true.
Given again, the same command goes on with an unfinished run, reads the labels, and writes the classifier without the
marked components (SpuFix) into the folder `fixed`, for every --checkpoint, and what that does to its accuracy.
""",
    tables={
      "search": {
        "smallest": "the smallest evidence, as find looks for it",
        "gradient": "gradient search, --per-step pixels a step",
        "screened": "gradient and forward passes choose (slow)",
      }
    },
    examples=(
      "components --data cifar10 --split train --validation-split test --data-dir DATA",
      "components --data cifar10 --split train --data-dir DATA --classes airplane ship --searched 4 --out runs/sky",
      "components --checkpoint runs/mine/classifier --data photos/ --resize --components 5 --completion images",
    ),
    groups={
      "image": f"{IMAGE} ids classes validation validation_split",
      "search": "num_components labels num_searched num_images search per_step completion threshold patch seed",
      "output": "out",
      "device": DEVICE,
    },
  ),
  "labels": Command(
    settings=(LabelsConfig,),
    run_fn=run_labels,
    description="""\
Which labels are wrong, and can subsets tell? Asks a classifier that was not trained on the images how probable each
label is, and which class each image is confidently of (confident learning, Northcutt et al. 2021). Says how well that
finds label errors: some that are planted, those that people voted for, or labels that people gave by themselves. With
runs of find, it says whether the size of a subset adds anything to the label's probability, and whether it goes with
people's disagreement.

It prints a table for each of these and its reading. It writes labels.json (all numbers with intervals, the confident
joint, the labels in doubt), labels.csv (a line an image), candidates.png (the labels most in doubt) and logits.npy
(float32 [N, K]). The same command again goes on with an unfinished run, and so does one that asks more of the same
images.
""",
    examples=(
      "labels --data cifar10 --data-dir DATA",
      "labels --data cifar10 --data-dir DATA --votes cifar10_mturk.json --runs runs/sis --at 0.9",
      "labels --data cifar10 --data-dir DATA --human cifar10h-counts.npy --runs runs/sis",
      "labels --data cifar10 --data-dir DATA --split train --human human.npz --people random_label1 random_label2",
    ),
    groups={
      "image": f"{IMAGE} ids num_images",
      "labels": "planted votes human people seed",
      "size": "runs kind at",
      "output": "out",
      "device": DEVICE,
    },
  ),
  "demo shortcut": Command(
    settings=(ShortcutConfig,),
    run_fn=run_shortcut,
    description="""\
Is a shortcut that is known found? Wires a detector of a small tag into the embedded classifier, puts the tag on a
quarter of some horses of CIFAR-10's test split, and runs find and clusters on them. It prints how well the cluster of
the tagged horses is told from the others, and writes images, run and clusters into a folder.
""",
    examples=("demo shortcut --data-dir DATA",),
  ),
}
