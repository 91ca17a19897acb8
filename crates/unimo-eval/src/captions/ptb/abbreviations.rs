//! Abbreviations that keep their full stop, and the words that one can tell the beginning of a sentence by.
//!
//! Case counts for the letters in brackets, which are other words in lower case.

/// The patterns of the lists by name.
pub(super) const LISTS: &[(&str, &str)] = &[
    // They may end a sentence, which they do before a capital.
    (
        "closing",
        "al | Ala | Apr | Ariz | [A]rk | Assn | Aug | [A]z | Bancorp | Bhd | Bldg | Blvd | Bros | Calif \
         | Colo | Conn | Corp | Cos? | Ct | Dak | Dec | [D]el | Ed.D | Esq | est | etc | ext | Feb | Fla \
         | Fri | Ga | [I]ll | Inc | Ind | Intl | Jan | Jr | Jul | Jun | Kans? | Ky | [L]a | Ltd | Mar \
         | [M]ass | Md | Mich | Minn | [M]iss | Mo | Mon | Mont | Neb | Nev | Nov | Oct | Okla | [O]re | [P]a \
         | Penn | Ph.D | Plc | Pp?t[ye]s? | Rd | rt | Sep | Sept | seq | sq | Sr | Sys | tel | Tenn | [T]ex \
         | Thu | Thurs | Tue | Tues | Univ | Va | Vt | [W]ash | Wed | Wisc? | Wyo",
    ),
    // They end no sentence: titles, and what is part of a name.
    (
        "abbreviation",
        "Adj | Adm | Adv | a.k.a | Alex | Assoc | Asst | Attys? | Ave | Brig | Capt | cf | Cie | Col | Co?mdr \
         | Cpl | Dept | Det | Drs? | Elec | Ens | Ft | Gen | Govs? | Hon | Insp | Invt | Jos | Lieut | Lt \
         | Maj | Messrs | M[ft]g | [M]iss | Mlle | Mme | Mr | Mrs | Ms | Msgr | Mt | Natl | Pfc | Ph | Pres \
         | Profs? | Pvt | Reps? | Rev | Sens? | Sfc | Sgt | Spc | Ste? | Supts? | TREAS | vs | Wm",
    ),
    // They are abbreviations before a number alone.
    (
        "before_digits",
        "art | bldg | ca | figs? | nos? | op | pp | prop",
    ),
    // They are read as acronyms.
    (
        "countries",
        "(Canada | EU | Japan | Korean | Sino | non)-U.S | U.S.-(U.K | U.S.S.R)",
    ),
    // They begin a sentence behind an acronym.
    (
        "opening",
        "[A] | [A]bout | [A]ccording | [A]dditionally | [A]fter | [A]n | [A]s | [A]t | [B]ut | [E]arlier \
         | [H]e | [H]er | [H]ere | [H]owever | [I]f | [I]n | [I]t | [L]ast | [M]any | [M]ore | [M]r. | [M]s. \
         | [N]ow | [O]nce | [O]ne | [O]ther | [O]ur | [S]he | [S]ince | [S]o | [S]ome | [S]uch | [T]hat \
         | [T]he | [T]heir | [T]hen | [T]here | [T]hese | [T]hey | [T]his | [W]e | [W]hat | [W]hen | [W]hile \
         | [Y]et | [Y]ou",
    ),
];
