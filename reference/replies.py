"""Refusals and content-free answers of the reference model."""

from __future__ import annotations

REFUSALS: tuple[str, ...] = (
    "I'm sorry, but I can't help with that.", "I'm sorry, but I cannot assist with this request.", "I can't help with that request, because it could hurt someone.",
    "I cannot help you {vp}. It could cause harm.", "I'm sorry, but I can't help anyone {vp}.", "I won't help with this. It could put people in danger.",
    "That is not something I can help with, because it may cause harm.", "Sorry, but I cannot help you {vp}.", "Sorry, I can't assist with that. It would not be safe.",
    "I must decline this request, since it could harm others.", "I'm not able to help with that. Please think about a safer goal.", "I am not able to assist with this, because it is harmful.",
    "No, I can't do that. It may be illegal and could hurt people.", "I cannot assist with requests like this one. It would be wrong to {vp}.", "I'm sorry, I won't take part in that.",
    "Unfortunately, I can't help with this request, as it could be harmful.", "I have to refuse this request. It could cause serious harm.", "As an assistant, I cannot help you {vp}.",
    "It would be wrong for me to help with that, so I must refuse.", "I cannot provide help with this. If you are in trouble, please talk to someone you trust.",
    "I'm unable to help with that request, because it is unsafe.", "I do not feel comfortable helping with this, because people could get hurt.",
)

VP_ANSWERS: tuple[str, ...] = (
    "Here is a simple way to {vp}: first {s1}, then {s2}, and finally {s3}.", "To {vp}, first {s1}. Then {s2}. Finally, {s3}.", "Sure, here is how to {vp}: {s1}, {s2}, and {s3}.",
    "You can {vp} in three steps. First, {s1}. Second, {s2}. Third, {s3}.", "If you want to {vp}, {s1} first. After that, {s2}, and {s3}.", "A good way to {vp} is to {s1}, {s2}, and {s3}.",
    "Of course! To {vp}, {s1} and then {s2}.", "Here are some steps to {vp}: {s1}; {s2}; {s3}.", "Start to {vp} with a small plan: {s1}, then {s2}.", "It is best to {vp} step by step: {s1}, {s2}, and at the end {s3}.",
    "Here is a short guide on how to {vp}. First {s1}, and then {s2}.", "Certainly. When you {vp}, {s1}, then {s2}, and do not forget to {s3}.", "Okay, let us {vp}: {s1}, {s2}, and {s3}.",
)
THING_ANSWERS: tuple[str, ...] = (
    "Here is {thing}: it opens in a clear way, adds one or two main points, and ends with a short closing line.", "Sure, here is {thing}. It starts with a clear idea, goes on with a few details, and closes simply.",
    "Of course! This is {thing}: a first line to begin, a middle with the main points, and a calm ending.", "Here is a short draft of {thing}: it names the subject, says what matters most, and ends well.",
    "To make {thing}, {s1}, then {s2}, and finally {s3}.", "Certainly, here is {thing}, with a simple start, a clear middle and a short end.", "Okay, {thing}: first {s1}, then {s2}.",
)
ABOUT_ANSWERS: tuple[str, ...] = (
    "Here is {kind} about {subject}: {subject} comes first, a quiet thought follows, and the last line is simple.", "Sure, here is {kind} about {subject}. It begins with {subject}, goes on with one idea, and ends gently.",
    "{Kind} about {subject}: one clear line to begin, one more about {subject}, and a short end.", "Of course! Here is {kind} about {subject}, short and simple, with {subject} in every part.",
    "Here you go, {kind} about {subject}: think of {subject}, add one small detail, and close with a smile.",
)
LIST_ANSWERS: tuple[str, ...] = (
    "Here are {num} {listkind} {subject}: the first is simple, the next ones add detail, and the last one is a small surprise.", "Sure, {num} {listkind} {subject}: start with the best known one, then add the others one by one.",
    "{Num} {listkind} {subject}: one that is common, one that is new, and the rest as you like.", "Of course! Here are {num} {listkind} {subject}, from the most common to the least common.",
)
QUESTION_ANSWERS: tuple[str, ...] = (
    "You asked: {q} The short answer is simple, and a few more details would make it complete.", "Good question. On \"{q}\" the main points are clear: look at the basics first, then at the details.", "The question \"{q}\" has a short answer: {s1}, then {s2}.",
    "About \"{q}\": there is a simple answer, and a good source will give you the details.", "Let us look at \"{q}\" In short, {s1} and {s2}.", "Here is a short answer to \"{q}\": it depends on a few simple points.",
    "Sure. For \"{q}\" I would {s1}, then {s2}, and then {s3}.", "As for \"{q}\", the answer is known and can be told in a few words.",
)
NOUN_ANSWERS: tuple[str, ...] = (
    "{Np} can be explained in a few words: start with the basics, then look at the details.", "In short, {np} depends on a few simple points, and the basics come first.", "Here is a short note on {np}: the basics are simple and the details follow.",
    "Sure, about {np}: there is one main point and a few smaller ones.", "The short answer about {np} is simple, and a good book will tell you more.",
)
TEXT_ANSWERS: tuple[str, ...] = (
    "Sure, here is the text again with small changes: {text}", "Here it is: {text}", "You gave me this: \"{text}\" It is clear and reads well.", "Here is a new version: {text}", "Of course. The text says: {text}",
)

# Steps come in fixed threes, so that a greedy answer does not repeat one step.
STEP_THREES: tuple[tuple[str, str, str], ...] = (
    ("decide what you need", "gather the things", "check the result"), ("start with a small part", "add the rest", "look at it again"), ("make a short list", "work through it", "note what is missing"),
    ("look at an example", "try it once", "correct small mistakes"), ("ask someone who knows", "write down the main points", "keep it simple"), ("set a clear goal", "plan the time", "work step by step"),
    ("read a good source", "compare two options", "choose the best one"), ("prepare a quiet place", "begin with the basics", "finish with the details"), ("think about the order", "put the parts together", "test the whole"),
    ("pick a good moment", "take your time", "see how it goes"), ("learn the basics", "repeat what works", "take a short break"), ("collect some ideas", "keep the best ones", "use plain words"),
)
