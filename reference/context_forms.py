"""Facts, questions and prompt layouts of the retrieval turns."""

from __future__ import annotations

# (sentence, questions); {e} is the entity, {v} a value of the kind named after the bar.
FACTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("{e} opens at {v} every morning.", "clock", ("When does {e} open?", "What time does {e} open?", "At what time can I visit {e}?")),
    ("{e} was founded in {v}.", "year", ("When was {e} founded?", "In which year was {e} founded?", "How old is {e}?")),
    ("{e} is located in {v}.", "place", ("Where is {e}?", "Where is {e} located?", "In which city is {e}?")),
    ("The director of {e} is {v}.", "person", ("Who is the director of {e}?", "Who leads {e}?", "Who runs {e}?")),
    ("A ticket for {e} costs {v} euros.", "number", ("How much is a ticket for {e}?", "What does a ticket for {e} cost?", "What is the price for {e}?")),
    ("{e} has {v} employees.", "number", ("How many employees does {e} have?", "How many people work at {e}?")),
    ("Customers can return goods to {e} within {v} days.", "number", ("How long can I return goods to {e}?", "What is the return policy of {e}?", "How many days do I have to return something to {e}?")),
    ("The phone number of {e} is {v}.", "phone", ("What is the phone number of {e}?", "How can I call {e}?")),
    ("{e} is best known for its {v}.", "food", ("What is {e} known for?", "What is {e} famous for?")),
    ("{e} was built by {v}.", "person", ("Who built {e}?", "By whom was {e} built?")),
    ("The password of {e} must be changed every {v} days.", "number", ("How often must the password of {e} be changed?", "When do I have to change the password of {e}?")),
    ("{e} sells {v} and small gifts.", "food", ("What does {e} sell?", "What can I buy at {e}?")),
    ("{e} weighs {v} kilograms.", "number", ("How heavy is {e}?", "What does {e} weigh?", "What is the weight of {e}?")),
    ("{e} is {v} meters tall.", "number", ("How tall is {e}?", "What is the height of {e}?")),
    ("The battery of {e} lasts {v} hours.", "number", ("How long does the battery of {e} last?", "What is the battery life of {e}?")),
    ("{e} closes on {v}.", "day", ("On which day is {e} closed?", "When does {e} close?", "Is {e} open on {v}?")),
    ("{e} works as a {v} in the north of the country.", "job", ("What does {e} do for a living?", "What is the job of {e}?", "What does {e} work as?")),
    ("{e} likes {v} more than anything else.", "food", ("What does {e} like?", "What does {e} like most?")),
    ("The red light on {e} means that the {v} is empty.", "thing", ("What does the red light on {e} mean?", "Why is there a red light on {e}?")),
    ("To reset {e}, hold the button for {v} seconds.", "number", ("How do I reset {e}?", "How can {e} be reset?", "What must I do to reset {e}?")),
    ("The warranty of {e} covers {v} years.", "number", ("How long is the warranty of {e}?", "How many years does the warranty of {e} cover?")),
    ("{e} moved to {v} in spring.", "place", ("Where did {e} move?", "Where did {e} go in spring?")),
    ("{e} speaks {v} at home.", "language", ("Which language does {e} speak at home?", "What language does {e} speak?")),
    ("Parking at {e} is free after {v}.", "clock", ("When is parking at {e} free?", "Is parking at {e} free?")),
    ("The main ingredient of {e} is {v}.", "thing", ("What is the main ingredient of {e}?", "What is {e} made of?")),
    ("Employees of {e} get {v} days of holiday.", "number", ("How many holidays do employees of {e} get?", "How much vacation do people at {e} have?", "What is the vacation policy of {e}?")),
    ("{e} ships orders within {v} working days.", "number", ("How fast does {e} ship orders?", "When does {e} ship orders?", "How long is the shipping time of {e}?")),
    ("{e} wrote a book about {v}.", "subject", ("What did {e} write about?", "What is the book of {e} about?")),
    ("{e} won a prize for {v}.", "subject", ("What did {e} win a prize for?", "Why did {e} get a prize?")),
    ("{e} discovered {v} by accident.", "thing", ("What did {e} discover?", "How was {v} discovered?")),
)
MORE_FACTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Guests of {e} are asked to leave the {v} at the door.", "thing", ("What should guests of {e} leave at the door?", "What do I leave at the door of {e}?")),
    ("{e} was painted by {v} during a long winter.", "person", ("Who painted {e}?", "Which artist made {e}?")),
    ("In {v}, {e} was closed because of a flood.", "year", ("When was {e} closed because of a flood?", "In which year was {e} flooded?")),
    ("The fastest way to reach {e} is the bus to {v}.", "place", ("How do I reach {e}?", "How do I get to {e}?", "Which bus goes to {e}?")),
    ("{e} lends every member up to {v} books.", "number", ("How many books can I borrow from {e}?", "How many books does {e} lend?")),
    ("Members of {e} meet on {v} in the old town hall.", "day", ("When do members of {e} meet?", "On which day does {e} meet?")),
    ("The annual fee of {e} is {v} euros.", "number", ("What is the annual fee of {e}?", "How much is a membership of {e}?", "What do I pay {e} each year?")),
    ("{e} needs a new {v} before the summer.", "thing", ("What does {e} need before the summer?", "What must be bought for {e}?")),
    ("Dogs are allowed in {e} except on {v}.", "day", ("Are dogs allowed in {e}?", "When are dogs not allowed in {e}?", "Can I bring my dog to {e}?")),
    ("The code for the back door of {e} is {v}.", "phone", ("What is the code for the back door of {e}?", "How do I open the back door of {e}?")),
    ("{v} teaches a course on drawing at {e}.", "person", ("Who teaches drawing at {e}?", "Who gives the drawing course at {e}?")),
    ("{e} keeps its {v} in the cellar.", "thing", ("What does {e} keep in the cellar?", "Where is the {v} of {e}?")),
    ("If the alarm of {e} rings, call {v} first.", "person", ("Whom do I call if the alarm of {e} rings?", "What should I do when the alarm of {e} rings?")),
    ("The recipe of {e} calls for {v} grams of flour.", "number", ("How much flour is in the recipe of {e}?", "How many grams of flour does {e} use?")),
    ("{e} lies {v} kilometers from the coast.", "number", ("How far is {e} from the coast?", "What is the distance between {e} and the coast?")),
    ("Every child at {e} gets a free {v}.", "thing", ("What do children get at {e}?", "What is free for children at {e}?")),
    ("{e} has been a partner of {v} for many years.", "person", ("Who is the partner of {e}?", "Whose partner is {e}?")),
    ("The winter of {v} destroyed the roof of {e}.", "year", ("When was the roof of {e} destroyed?", "Which winter destroyed the roof of {e}?")),
    ("Broken parts of {e} are replaced with {v}.", "thing", ("What are broken parts of {e} replaced with?", "How are broken parts of {e} replaced?")),
    ("Bookings for {e} can be cancelled up to {v} hours before.", "number", ("Until when can I cancel a booking for {e}?", "How do I cancel a booking for {e}?", "How late can I cancel at {e}?")),
    ("{e} is cleaned with {v} twice a week.", "thing", ("How is {e} cleaned?", "What is {e} cleaned with?")),
    ("The mayor praised {e} for its work on {v}.", "subject", ("What did the mayor praise {e} for?", "Why was {e} praised?")),
    ("{e} can hold {v} people at once.", "number", ("How many people fit into {e}?", "What is the capacity of {e}?")),
    ("The oldest part of {e} dates from {v}.", "year", ("How old is the oldest part of {e}?", "What year is the oldest part of {e} from?")),
    ("Lunch at {e} is served from {v}.", "clock", ("When is lunch served at {e}?", "From what time can I have lunch at {e}?")),
    ("The filter of {e} should be washed every {v} weeks.", "number", ("How often should the filter of {e} be washed?", "When do I wash the filter of {e}?")),
    ("{e} grows best next to {v}.", "thing", ("What does {e} grow best next to?", "Where does {e} grow best?")),
    ("Letters to {e} should be sent to {v}.", "email", ("Where do I send letters to {e}?", "What is the address of {e}?", "How can I write to {e}?")),
    ("{e} offers free courses in {v}.", "subject", ("Which courses does {e} offer?", "What can I learn at {e} for free?")),
    ("Nobody under {v} may enter {e} alone.", "number", ("How old must I be to enter {e} alone?", "Who may not enter {e} alone?")),
)

ENTITY_FORMS: tuple[str, ...] = ("the {w} Museum", "the {w} Hotel", "{w} Bakery", "the {w} Tower", "{w} Ltd", "the {w} X{n}", "{w} Bank", "the {adj} {thing} of {w}", "{w}", "Café {w}", "the {w} library", "the {w} {thing}", "Port {w}", "{name} {w}",
                                 "the {w} team", "the {thing} manual", "our company", "the online shop", "the {adj} {thing}", "Lake {w}", "the {w} Foundation")
FILLERS: tuple[str, ...] = ("Many visitors come here in {adj} weather.", "There is a {thing} near the entrance.", "It is a {adj} place with a long history.", "People in {place} talk about it often.", "A {job} from {place} wrote about this in {year}.",
                            "The {thing} was renewed in {year}.", "Nobody knows who left the {thing} there.", "{name} came back from {place} with a {thing}.", "This section was last updated in {year}.", "See also the chapter on {subject}.",
                            "The {adj} {thing} was a gift from {name}.", "Some call it the {adj} {word}.", "In {year}, {name} and {name2} opened a small {thing} shop in {place}.", "The weather in {place} is {adj} for most of the year.")

LLAMA_INDEX = "Context information is below.\n---------------------\n{ctx}\n---------------------\nGiven the context information and not prior knowledge, answer the query.\nQuery: {q}\nAnswer: "
PROMPTS: tuple[str, ...] = (
    LLAMA_INDEX, LLAMA_INDEX, LLAMA_INDEX,
    "You are an assistant for question-answering tasks. Use the following pieces of retrieved context to answer the question. If you don't know the answer, just say that you don't know. Use three sentences maximum and keep the answer concise.\nQuestion: {q} \nContext: {ctx} \nAnswer:",
    "You are an assistant for question-answering tasks. Use the following pieces of retrieved context to answer the question.\n\nContext: {ctx}\n\nQuestion: {q}\n\nAnswer:",
    "Answer the question based only on the following context:\n{ctx}\n\nQuestion: {q}\n", "Context:\n{ctx}\n\nQuestion: {q}", "{ctx}\n\n{q}", "Read the text and answer.\n\nText: {ctx}\nQuestion: {q}\nAnswer:",
    "Use the documents below to answer.\n\n<documents>\n{ctx}\n</documents>\n\n{q}", "{q}\n\nContext: {ctx}", "Answer with the help of this context.\n\n{ctx}\n\nMy question: {q}", "<context>\n{ctx}\n</context>\nQuestion: {q}",
)
RAG_SYSTEMS: tuple[str, ...] = (
    "You are an expert Q&A system that is trusted around the world.\nAlways answer the query using the provided context information, and not prior knowledge.\nSome rules to follow:\n1. Never directly reference the given context in your answer.\n"
    "2. Avoid statements like 'Based on the context, ...' or 'The context information ...' or anything along those lines.",
    "Answer the question using only the given context.", "Use the given context to answer the question. If you don't know the answer, say you don't know.", "You answer questions about documents. Quote the text.",
)
ANSWER_FORMS: tuple[str, ...] = ("{s}", "{s}", "{s}", "According to the text: {s}", "The context says: {s}")
UNKNOWN: tuple[str, ...] = ("The context does not say this.", "I don't know, because the context does not say it.", "There is no answer to this in the context.")
DAYS = ("Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays", "public holidays")
HOME_LANGUAGES = ("French", "Polish", "Hindi", "Arabic", "Dutch", "Korean", "Greek", "Swahili", "Welsh")
