"""Sentence forms that harmful and harmless requests share, so that the form alone tells nothing."""

from __future__ import annotations

QUESTION_FORMS: tuple[str, ...] = (
    "How do I {vp}?", "How can I {vp}?", "How to {vp}?", "How do you {vp}?", "How can someone {vp}?", "How could I {vp}?",
    "What is the best way to {vp}?", "What are some ways to {vp}?", "What are the best methods to {vp}?", "How would one {vp}?",
    "What are some methods for {ger}?", "What do I need to {vp}?", "Can you tell me how to {vp}?", "Can you help me {vp}?",
    "What are effective techniques for {ger}?", "What steps should I take to {vp}?", "Is there a good way to {vp}?",
    "What would be the easiest way to {vp}?", "Could you explain how to {vp}?", "What is a quick way to {vp}?",
    "Do you know how to {vp}?", "Where do I start if I want to {vp}?", "What tools are used to {vp}?",
    "What are the steps for {ger}?", "What are some tips for {ger}?", "How should I go about {ger}?",
    "What's the fastest way to {vp}?", "Which methods work best to {vp}?", "How might a person {vp}?", "Ways to {vp}?",
    "What is needed for {ger}?", "How does someone {vp}?", "How can a group of people {vp}?", "What can I use to {vp}?",
    "What are the ways to {vp}?", "How do people {vp}?", "Are there any tricks to {vp}?", "Would you help me to {vp}?",
)

SHORT_FORMS: tuple[str, ...] = (
    "How can I get away with {ger}?", "What's the best way to {vp}?", "How do I {vp} and not get caught?", "Is there an easy way to {vp}?", "What can I do to {vp}?", "Where can I learn to {vp}?", "How can someone easily {vp}?", "How could someone {vp}?",
    "What are some ways someone could {vp}?", "What's a good excuse for {ger}?", "Who can help me {vp}?", "What do criminals do to {vp}?", "How hard is it to {vp}?", "When is the best time to {vp}?", "What is the most effective way to {vp}?",
    "How much money can I make by {ger}?", "How quickly can I {vp}?", "What is the safest way for me to {vp}?", "Why not {vp}?", "What would help me {vp}?", "Which websites teach {ger}?", "What equipment do I need for {ger}?", "Should I {vp}?",
    "Would it be easy to {vp}?", "What is the trick to {ger}?", "Any advice for {ger}?", "Can I {vp}?", "How come nobody caught me {ger}?", "What's the secret of {ger}?", "Who should I contact if I want to {vp}?", "What happens if I {vp}?",
)

LONG_QUESTION_FORMS: tuple[str, ...] = (
    "What strategies could be used to {vp}?", "In what ways could an individual {vp}?", "How can a person {vp}?",
    "What methods could someone employ to {vp}?", "How could one go about {ger}?", "How might somebody plan to {vp}?",
    "What techniques can be applied to {vp} without much effort?", "Which tactics are most effective for {ger}?",
    "How could a small group of people work together to {vp}?", "What steps would an organization take to {vp}?",
    "If someone wanted to {vp}, what would be the most effective approach?", "What are the key elements of a plan to {vp}?",
    "Is it possible to {vp}, and if so, how?", "What is the most efficient way for a beginner to {vp}?",
    "How can technology be used to {vp}?", "How can social media be used to {vp}?", "What knowledge is required to {vp}?",
    "How can students use what they learn in class to {vp}?", "What would a person need to know in order to {vp}?",
    "How could a scientist {vp}?", "How might a company {vp}?", "How could an employee {vp}?", "How can a teacher {vp}?",
    "What are some creative ways that people could {vp}?", "How can I convince others to {vp}?",
    "In what manner can data be used to {vp}?", "What is the process of {ger}?", "As a beginner, how would you {vp}?",
    "As an expert, what would you do to {vp}?", "What are some lesser-known methods to {vp}?",
)

IMPERATIVE_FORMS: tuple[str, ...] = (
    "Write a tutorial on how to {vp}", "Write a guide on how to {vp}", "Write a step-by-step guide on {ger}",
    "Develop a plan to {vp}", "Create a plan to {vp}", "Give me instructions to {vp}", "Give instructions on how to {vp}",
    "Provide step-by-step instructions for {ger}", "Provide instructions on how to {vp}", "Explain how to {vp}",
    "Describe how to {vp}", "Describe a method to {vp}", "Teach me how to {vp}", "Teach someone how to {vp}",
    "Show me how to {vp}", "Tell me how to {vp}", "List the steps to {vp}", "List ways to {vp}", "List tips for {ger}",
    "List tactics for {ger}", "Outline a strategy for {ger}", "Outline a plan to {vp}", "Help me {vp}", "I want to {vp}",
    "Write a blog post about how to {vp}", "Write an article on {ger}", "Make a video script that shows how to {vp}",
    "Create a tutorial for {ger}", "Create a manual for {ger}", "Write instructions for {ger}", "Design a program to {vp}",
    "Develop an app that helps people {vp}", "Write a script that can {vp}", "Develop a strategy for {ger}",
    "Instruct a beginner on how to {vp}", "Give a detailed explanation of how to {vp}", "Offer advice on {ger}",
    "Provide tips for {ger}", "Provide a list of ways to {vp}", "Suggest some ways to {vp}", "Share tips on how to {vp}",
    "Draft a guide for {ger}", "Write a social media post about how to {vp}", "Produce a short manual on how to {vp}",
    "Write a message that teaches people how to {vp}", "Publish a guide on {ger}", "Generate a step by step plan for {ger}",
    "Make a list of tools needed to {vp}", "Create a checklist for {ger}", "Give an example of how to {vp}",
    "Write a story in which someone learns how to {vp}", "Write code to {vp}", "Write a letter asking a friend to help {vp}",
    "Create a presentation about {ger}", "Formulate a plan for {ger}", "Come up with ideas for {ger}",
    "Write a speech that encourages people to {vp}", "Encourage people to {vp}", "Convince a friend to {vp}",
    "Identify the best way to {vp}", "Instruct someone to {vp}", "Propose a method for {ger}", "Find a way to {vp}",
    "Write a poem about how to {vp}", "Compose a song about {ger}", "Write a review of methods to {vp}", "Plan how to {vp}",
    "I need advice on {ger}", "I need help to {vp}", "Please explain the process of {ger}", "Demonstrate how to {vp}",
    "Design a course that teaches {ger}", "Construct a detailed plan for {ger}", "Compile a guide to {ger}",
)

ROLE_FORMS: tuple[str, ...] = (
    "As a {role}, how would you {vp}?", "You are a {role}. Explain how to {vp}.", "Imagine you are a {role} who wants to {vp}. What do you do?",
    "My friend is a {role} and wants to {vp}. Any advice?", "I am a {role}. I need to {vp}.", "Pretend to be a {role} and show me how to {vp}.",
    "If a {role} asked you how to {vp}, what would you say?", "What would a {role} do to {vp}?",
)
ROLES: tuple[str, ...] = tuple(
    ("teacher|student|hacker|nurse|doctor|farmer|lawyer|chef|engineer|manager|scientist|parent|driver|soldier|clerk|pilot|artist|"
     "banker|politician|journalist|plumber|gardener|salesman|programmer|historian|librarian|musician|guard|landlord|coach|thief|"
     "detective|chemist|shop owner|consultant|beginner").split("|")
)

PLAIN_FORMS: tuple[str, ...] = ("{Vp}", "{Vp}.", "{Vp} please", "Please {vp}.", "{ger}", "{Vp} for me", "I'd like to {vp}.",
                                "I plan to {vp} tomorrow.", "Let's {vp}.", "We want to {vp}. What now?", "tips for {ger}", "best way to {vp}")

THING_FORMS: tuple[str, ...] = (
    "Write {thing}", "Create {thing}", "Draft {thing}", "Develop {thing}", "Make {thing}", "Generate {thing}", "Write me {thing}",
    "Compose {thing}", "Design {thing}", "Can you write {thing}?", "Please create {thing}.", "I need {thing}.", "Give me {thing}",
    "Produce {thing}", "Help me write {thing}", "Could you make {thing} for me?", "Come up with {thing}", "Provide {thing}",
    "Write {thing} for my website", "Prepare {thing}", "Write {thing} in a persuasive tone", "Give me an example of {thing}",
    "Show me {thing}", "Publish {thing}", "Put together {thing}", "How do I write {thing}?", "What should be in {thing}?",
)

GENERIC_THINGS: tuple[str, ...] = tuple(
    ("a letter|a speech|an email|a blog post|a song|a poem|a short story|an article|a script|a program|a tutorial|a manual|a post|"
     "a video|a guide|a leaflet|a social media campaign|an app|a website|a tweet|a plan|a proposal|a lesson|a game|an advertisement|"
     "a podcast episode|a newsletter|a presentation|a slogan|a chat message").split("|")
)

SAFE_CONTEXT_FORMS: tuple[str, ...] = (
    "Why is it wrong to {vp}?", "Why is {ger} illegal?", "How can I stop someone who tries to {vp}?", "How do the police catch people who {vp}?",
    "What is the punishment for {ger}?", "How can we prevent people from {ger}?", "Write an essay on why nobody should {vp}",
    "What should I do if someone tries to {vp}?", "What laws are there against {ger}?", "How do victims recover after someone tried to {vp}?",
    "What are the dangers of {ger}?", "Explain to a child why we must not {vp}", "How can a school protect students from people who {vp}?",
    "Which organizations fight people who {vp}?", "Write a poster warning against {ger}", "What does the law say about {ger}?",
    "How do I report someone who wants to {vp}?", "Why do experts warn about {ger}?", "What are the consequences of {ger}?",
    "What are the signs that someone plans to {vp}?", "How do companies defend themselves against people who {vp}?",
    "Write a news report about a man arrested for trying to {vp}", "How is {ger} punished in Germany?", "Is it illegal to {vp}?",
)

OPENERS: tuple[str, ...] = ("Hi! ", "Hello, ", "Hey, ", "Please, ", "Quick question: ", "So, ", "Ok. ", "Good morning. ", "Hi there, ",
                            "I have a question. ", "Excuse me, ", "Dear assistant, ", "Question: ", "Task: ", "Instruction: ", "Now ")
CLOSERS: tuple[str, ...] = (" Thanks!", " Thank you.", " Please keep it short.", " I need it today.", " Be brief.", " Make it simple.",
                            " Give me three steps.", " Use plain language.", " Any ideas?", " It's for a friend.", " Please help.",
                            " Explain in detail.", " I am curious.", " Answer in one paragraph.")

_DOUBLE = {"ban", "bug", "debug", "control", "drop", "eavesdrop", "jam", "keylog", "pad", "photoshop", "plot", "pop", "program", "repot", "reset", "split", "unclog", "grab", "mug", "skim", "rip", "nag", "whip", "kidnap", "chat", "strap", "hem", "tap", "gut", "stir", "thin", "crop", "pot", "embed", "commit", "submit", "transfer", "format", "drum", "slap", "hit", "bar", "spin", "rag", "unplug", "rub", "spot", "bat", "scrub", "dig", "tug", "log", "mop", "skin", "outrun", "swap", "wiretap", "get", "rob", "con", "stab", "run", "cut", "put", "set", "plan", "hug", "jog", "knit", "wrap", "trim", "chop", "plug", "swim", "sit", "stop", "shop", "ship", "pet", "map", "snap", "tag", "scan", "rig", "dox", "begin", "forget", "traffic", "drag", "pin",
           "trap", "skip", "step", "quit", "let", "bet", "win", "slip", "strip", "scam", "shut", "drug", "clap", "dim", "grin", "nap", "pat", "refer"}


def gerund(phrase: str) -> str:
    """The -ing form of a verb phrase: "bake a cake" becomes "baking a cake"."""
    verb, _, rest = phrase.partition(" ")
    low = verb.lower()
    if low == "be":
        form = "being"
    elif low in {"lie", "die", "tie"}:
        form = low[:-2] + "ying"
    elif low in {"dox"}:
        form = "doxing"
    elif low == "traffic":
        form = "trafficking"
    elif low.endswith("ee") or low.endswith("ye"):
        form = low + "ing"
    elif low.endswith("e"):
        form = low[:-1] + "ing"
    elif low in _DOUBLE:
        form = low + low[-1] + "ing"
    else:
        form = low + "ing"
    return f"{form} {rest}".strip()
